"""Several linear layers of one input as a single product."""

from __future__ import annotations

import torch
from torch import nn


def fused_linear(*layers: nn.Linear) -> nn.Linear:
    """A layer whose output is the layers' outputs, one behind the other."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(biases), device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if biases:
        assert len(biases) == len(layers)
        fused.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return fused
