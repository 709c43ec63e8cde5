"""The decoder is told where to look when it chooses.

The loss of an answer says which row of a table is right, not why. What has to be learned from it,
words gathered at the token that chooses, then matched with the visual tokens, is a chain of two
attentions that earns nothing until both links hold, and short training does not find it
(docs/lab_notes.md). Here the second link is taught outright: of the attention of a few heads, as
much as possible shall fall on the visual tokens that show what the answer is about (see evidence).
Nothing is added to the model: these are its own heads, read out once more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.training.conversations import Batch
from llava_st_ros.training.losses import Terms, logged_mean, mean


def middle_layer(model: LlavaST) -> int:
    """The first layer of the upper half: its attention is taught, as words could meet before it,
    and what enters it is read for events (event_alignment)."""
    return model.config.language.num_hidden_layers // 2


def attention_loss(
    model: LlavaST, batch: Batch, hidden: Tensor, visual_start: int, weight: float = 1.0
) -> Terms:
    """Mean negative logarithm of the share of attention that falls on the evidence.

    ``hidden`` [B, L, D] is what enters ``middle_layer``; ``visual_start`` where the visual tokens
    begin. Half of the layer's heads are taught, the others stay free. ``attention`` counts with
    ``weight``; to log, the share itself, as ``looks``.
    """
    shares = attention(model, batch, hidden)
    shown = shares[..., visual_start : visual_start + batch.evidence.shape[1]]
    share = (shown * batch.evidence[:, None]).sum(-1).mean(-1)
    return {"attention": mean(-(share + 1e-6).log(), weight), "looks": logged_mean(share)}


def attention(model: LlavaST, batch: Batch, hidden: Tensor) -> Tensor:
    """Attention of the taught heads at the batch's n choices to every position, [n, heads, L]."""
    layer = model.model.layers[middle_layer(model)]
    inner = layer.self_attn
    states = layer.input_layernorm(hidden)
    split = (*states.shape[:2], -1, inner.head_dim)
    query = inner.q_proj(states).view(split).transpose(1, 2)  # [B, heads, L, head_dim]
    key = inner.k_proj(states).view(split).transpose(1, 2)
    query, key = apply_rotary_pos_emb(
        query, key, *model.model.rotary_emb(states, position_ids=batch.positions)
    )
    key = repeat_kv(key, inner.num_key_value_groups)
    taught = max(1, query.shape[1] // 2)
    rows, places = batch.choices.T
    scores = query[:, :taught] @ key[:, :taught].transpose(2, 3) * inner.scaling  # [B, h, L, L]
    visible = batch.visible[rows, 0, places]
    chosen = scores[rows, :, places].masked_fill(~visible[:, None], float("-inf"))
    return torch.softmax(chosen, dim=-1)
