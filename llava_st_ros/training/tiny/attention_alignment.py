"""The decoder is told where to look when it chooses.

The loss of an answer says which row of a table is right, not why. What has to be learned from it,
words gathered at the token that chooses, then matched with the visual tokens, is a chain of two
attentions that earns nothing until both links hold, and short training does not find it
(docs/lab_notes.md). Here the second link is trained directly: of the attention of a few heads, as
much as possible shall fall on the visual tokens that show what the answer is about (see evidence).
Nothing is added to the model: these are its own heads, read out once more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import rotate_half

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.training.loop.losses import LossTerms, logged_mean, mean_term
from llava_st_ros.training.tiny.conversations import Batch
from llava_st_ros.training.tiny.lane_attention import lane_sizes


def middle_layer(model: LlavaST) -> int:
    """The first layer of the upper half: its attention is trained, as words could meet before it,
    and what enters it is read for events (event_alignment)."""
    return model.config.language.num_hidden_layers // 2


def attention_loss(
    model: LlavaST, batch: Batch, hidden: Tensor, visual_start: int, weight: float = 1.0
) -> LossTerms:
    """Mean negative logarithm of the share of attention that falls on the evidence.

    ``hidden`` [B, L, D] is what enters ``middle_layer``; ``visual_start`` where the visual tokens
    begin. Half of the layer's heads are trained, the others stay free. ``attention`` counts with
    ``weight``; to log, the share itself, as ``looks``.
    """
    shares = attention(model, batch, hidden)
    shown = shares[..., visual_start : visual_start + batch.evidence.shape[1]]
    share = (shown * batch.evidence[:, None]).sum(-1).mean(-1)
    return {"attention": mean_term(-(share + 1e-6).log(), weight), "looks": logged_mean(share)}


def attention(model: LlavaST, batch: Batch, hidden: Tensor) -> Tensor:
    """Attention of the trained heads at the batch's n choices, [n, heads, P + T]: to the prefix and
    to the lane that the choice lies in."""
    layer = model.model.layers[middle_layer(model)]
    inner = layer.self_attn
    trained_heads = max(1, model.config.language.num_attention_heads // 2)
    groups = inner.num_key_value_groups  # query heads that share a key head
    key_heads = -(-trained_heads // groups)
    prefix, count, tokens = lane_sizes(batch.visible, len(hidden))
    rows, places = batch.choices.T
    lanes, within = rows * count + (places - prefix) // tokens, (places - prefix) % tokens
    states = layer.input_layernorm(hidden)
    cos, sin = model.model.rotary_emb(states, position_ids=batch.positions)  # [B, L, head_dim]
    query = inner.q_proj(states[rows, places]).unflatten(-1, (-1, inner.head_dim))
    query = _rotated(query, cos[rows, places], sin[rows, places])  # [n, all heads, head_dim]
    # Every head of the key heads in use, so that they come in whole groups.
    query = query[:, : key_heads * groups].unflatten(1, (key_heads, groups))
    key = inner.k_proj(states).unflatten(-1, (-1, inner.head_dim))[:, :, :key_heads]
    key = _rotated(key, cos, sin)
    own = key[:, prefix:].unflatten(1, (count, tokens)).flatten(0, 1)
    # Not by [rows]: the gradient of index_select is much the faster one.
    key = torch.cat([key[:, :prefix].index_select(0, rows), own.index_select(0, lanes)], dim=1)
    scores = (
        torch.einsum("nkgd,nlkd->nkgl", query, key).flatten(1, 2)[:, :trained_heads] * inner.scaling
    )
    visible = batch.visible[lanes, :, within]  # [n, 1, P + T]
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [..., heads, head_dim] at the positions of cos and sin [..., head_dim]."""
    return heads * cos.unsqueeze(-2) + rotate_half(heads) * sin.unsqueeze(-2)
