"""Attention of conversations whose turns lie in lanes (see conversations).

A turn sees the prefix and itself. In one long row most of the scores would be of tokens that never
see each other: with K lanes of T tokens behind a prefix of P, scores are P * P + K * T * (P + T)
in place of (P + K * T) squared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import repeat_kv

NAME = "lanes"


def lane_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Query [B, H, P + K * T, d], key and value [B, h, P + K * T, d], and for each of the B * K
    lanes what its T tokens see of the prefix and of the lane: bool [B * K, 1, T, P + T]. The prefix
    is causal. Returns [B, P + K * T, H, d]; called by transformers, hence the None.
    """
    prefix, count, tokens = lane_sizes(attention_mask, len(query))
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the prefix [B, H, P, d] and of the lanes [B * K, H, T, d]."""
        lanes = x[:, :, prefix:].unflatten(2, (count, tokens)).transpose(1, 2)
        return x[:, :, :prefix].contiguous(), lanes.flatten(0, 1)

    def joined(head: Tensor, lanes: Tensor) -> Tensor:
        """The lanes, each behind a prefix of its own [B * K, H, P + T, d]."""
        heads = head.unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(0, 1)
        return torch.cat([heads, lanes], dim=2)

    (first, asked), keys, values = split(query), split(key), split(value)
    kwargs = {"dropout_p": dropout, "scale": scaling}
    head = scaled_dot_product_attention(first, keys[0], values[0], is_causal=True, **kwargs)
    lanes = scaled_dot_product_attention(
        asked, joined(*keys), joined(*values), attn_mask=attention_mask, **kwargs
    )
    lanes = lanes.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
    return torch.cat([head, lanes], dim=2).transpose(1, 2).contiguous(), None


def lane_sizes(visible: Tensor, rows: int) -> tuple[int, int, int]:
    """P, K and T of a batch of B = ``rows`` conversations, whose lanes see [B * K, 1, T, P + T]."""
    tokens, seen = visible.shape[-2:]
    return seen - tokens, len(visible) // rows, tokens


AttentionInterface.register(NAME, lane_attention)


@contextmanager
def attending_in_lanes(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends by ``lane_attention``, whose masks no other one takes."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = usual
