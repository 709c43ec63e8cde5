"""Weights that are one piece of memory: several linear layers of one input as a single product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def fused_linear(*layers: nn.Linear) -> nn.Linear:
    """A layer whose output is the layers' outputs, one behind the other. See ``joined``."""
    weight = joined([layer.weight for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(biases), device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if biases:
        assert len(biases) == len(layers)
        fused.bias = nn.Parameter(joined(biases), requires_grad=False)
    return fused


def joined(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """The parameters, one behind the other. They become views of it: what a model holds is not
    held twice."""
    whole = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(p) for p in parameters])):
        parameter.data = part
    return whole
