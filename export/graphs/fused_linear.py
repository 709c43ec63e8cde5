"""Fuse linear layers that share an input into one product, without copying weights twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def fused_linear(*layers: nn.Linear) -> nn.Linear:
    """Return a layer whose output is the concatenation of the layers' outputs.

    The given layers become views of its weights; see ``shared_concat``.
    """
    weight = shared_concat([layer.weight for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(biases), device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if biases:
        assert len(biases) == len(layers)
        fused.bias = nn.Parameter(shared_concat(biases), requires_grad=False)
    return fused


def shared_concat(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate parameters along the first axis and make them views of the result.

    Sharing keeps the weights in memory once.
    """
    joined = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters])):
        parameter.data = part
    return joined
