"""Attention of a few queries to the tokens of their own region, read where they lie on the grid.

What is left of the Spatial-Temporal Packer when its matrices are products of their own
(``model.absorbed_packer``): no parameters, little arithmetic, and all of the memory traffic. The
ONNX node, the TensorRT plugin and the CUDA kernel of this project compute this function. For torch
it is one operator, so that an export sees one node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def region_attention_in_torch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spatial_region: int,
    temporal_region: int,
    epsilon: float,
) -> torch.Tensor:
    """Softmax attention of each region's H queries to its K tokens, keys and values normalized.

    ``query`` [F/t, h/s, w/s, H, E]; ``key``, ``value`` [F, h, w, E] with s = ``spatial_region`` and
    t = ``temporal_region``, one of them 1. Keys and values are brought to mean 0 and variance 1
    over E (LayerNorm without weights, ``epsilon`` beside the variance); scores are plain products,
    so queries come scaled. Returns [F/t, h/s, w/s, H, E]: sums of normalized values.
    """
    keys, values = (
        nn.functional.layer_norm(
            _regions(x, spatial_region, temporal_region), x.shape[-1:], eps=epsilon
        )
        for x in (key, value)
    )
    return (query @ keys.transpose(-1, -2)).softmax(-1) @ values


region_attention = torch.library.custom_op(
    "llava_st::region_attention", region_attention_in_torch, mutates_args=()
)


@region_attention.register_fake
def _(query: torch.Tensor, *others: object) -> torch.Tensor:
    return query.new_empty(query.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    _, pull = torch.func.vjp(
        lambda *tensors: region_attention_in_torch(*tensors, *ctx.settings), *ctx.saved_tensors
    )
    return (*pull(gradient), None, None, None)


region_attention.register_autograd(_backward, setup_context=_keep)


def _regions(x: torch.Tensor, spatial_region: int, temporal_region: int) -> torch.Tensor:
    """[F, h, w, E] -> [F/t, h/s, w/s, t * s * s, E]: each region's tokens, frame by frame, row by
    row."""
    s, t = spatial_region, temporal_region
    x = x.unflatten(2, (-1, s)).unflatten(1, (-1, s)).unflatten(0, (-1, t))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5)
