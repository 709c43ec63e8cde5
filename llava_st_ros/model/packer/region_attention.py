"""The operator ``llava_st::region_attention``: queries attend to the tokens of their own region.

The absorbed packer (``model.packer.absorbed``) moves all matrices out of the attention. This is the
rest: no parameters, little arithmetic, and all of the memory traffic. The project's ONNX node,
TensorRT plugin and CUDA kernel compute the same function. It is one operator of torch, so that an
export sees one node.
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
    """Compute softmax attention of each region's H queries to its K normalized tokens.

    Keys and values are normalized to mean 0 and variance 1 over E (LayerNorm without weights).
    Scores are unscaled dot products; scale the queries instead.

    Args:
        query: [F/t, h/s, w/s, H, E].
        key: [F, h, w, E].
        value: [F, h, w, E].
        spatial_region: s, the side of a region; 1 if t is not.
        temporal_region: t, the length of a region in frames; 1 if s is not.
        epsilon: Added to the variance.

    Returns:
        Weighted sums of normalized values [F/t, h/s, w/s, H, E].
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    vjp = torch.func.vjp(
        lambda *tensors: region_attention_in_torch(*tensors, *ctx.settings), *ctx.saved_tensors
    )[1]
    return (*vjp(gradient), None, None, None)


region_attention.register_autograd(_backward, setup_context=_setup_context)


def _regions(x: torch.Tensor, spatial_region: int, temporal_region: int) -> torch.Tensor:
    """[F, h, w, E] -> each region's tokens [F/t, h/s, w/s, t * s * s, E], by frame and row."""
    s, t = spatial_region, temporal_region
    x = x.unflatten(2, (-1, s)).unflatten(1, (-1, s)).unflatten(0, (-1, t))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5)
