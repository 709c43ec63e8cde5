"""Attention for conversations whose turns are packed into lanes (see conversations).

A turn attends to the prefix and to itself. As one long row, most scores would be between tokens
that are masked from each other. With K lanes of T tokens after a prefix of P, lane attention
computes P * P + K * T * (P + T) scores instead of (P + K * T) squared.
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
    """Attend causally within the prefix, and from each lane to the prefix and the lane itself.

    An attention function of transformers.AttentionInterface.

    Args:
        module: Not used.
        query: [B, H, P + K * T, d].
        key: [B, h, P + K * T, d].
        value: [B, h, P + K * T, d].
        attention_mask: Which tokens of the prefix and of its lane each token of a lane sees, bool
            [B * K, 1, T, P + T].
        dropout: Probability.
        scaling: Of the scores.

    Returns:
        The output [B, P + K * T, H, d], and None instead of attention weights.
    """
    prefix, count, tokens = lane_sizes(attention_mask, len(query))
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prefix [B, H, P, d] and the lanes [B * K, H, T, d]."""
        lanes = x[:, :, prefix:].unflatten(2, (count, tokens)).transpose(1, 2)
        return x[:, :, :prefix].contiguous(), lanes.flatten(0, 1)

    def join(head: Tensor, lanes: Tensor) -> Tensor:
        """Return each lane after a copy of its prefix, [B * K, H, P + T, d]."""
        heads = head.unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(0, 1)
        return torch.cat([heads, lanes], dim=2)

    (prefix_query, lane_query), keys, values = split(query), split(key), split(value)
    head = scaled_dot_product_attention(
        prefix_query, keys[0], values[0], is_causal=True, dropout_p=dropout, scale=scaling
    )
    lanes = scaled_dot_product_attention(
        lane_query,
        join(*keys),
        join(*values),
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    lanes = lanes.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
    return torch.cat([head, lanes], dim=2).transpose(1, 2).contiguous(), None


def lane_sizes(attention_mask: Tensor, rows: int) -> tuple[int, int, int]:
    """Return P, K and T of ``rows`` conversations with a mask [B * K, 1, T, P + T]."""
    tokens, keys = attention_mask.shape[-2:]
    return keys - tokens, len(attention_mask) // rows, tokens


AttentionInterface.register(NAME, lane_attention)


@contextmanager
def use_lane_attention(model: PreTrainedModel) -> Iterator[None]:
    """Make the model use ``lane_attention``, which its masks require, within this block."""
    previous = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = previous
