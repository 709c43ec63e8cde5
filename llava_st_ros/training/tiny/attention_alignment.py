"""A loss on the decoder's attention: it should fall on the tokens that show the answer.

The loss of an answer trains which row of a table is right, but not why. Two attention steps must
work together to find it: words are gathered at the decision token, then matched with visual tokens.
Neither step helps without the other, and short training does not learn both (docs/lab_notes.md).
This loss trains the second step directly: a few heads learn to attend to the visual tokens that
show what the answer is about (see attention_targets). It adds no parameters to the model; the
attention of the trained heads is computed a second time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, rotate_half

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.training.loop.losses import LossTerms, logged_mean, mean_term
from llava_st_ros.training.tiny.conversations import CollatedConversations
from llava_st_ros.training.tiny.lane_attention import lane_sizes


def middle_layer(model: LlavaST) -> int:
    """Return the first layer of the upper half.

    Its attention is trained here, after layers in which words can be gathered. Its input is read
    by event_alignment.
    """
    return model.config.language.num_hidden_layers // 2


def attention_loss(
    model: LlavaST,
    conversations: CollatedConversations,
    hidden: Tensor,
    visual_start: int,
    weight: float = 1.0,
) -> LossTerms:
    """Return the mean negative logarithm of the attention that falls on the targets.

    Half of the layer's heads are trained.

    Args:
        model: The model.
        conversations: B conversations of L tokens.
        hidden: The input of ``middle_layer`` [B, L, D].
        visual_start: The position of the first visual token.
        weight: Weight of the term ``attention_loss``.

    Returns:
        ``attention_loss``, and the share of attention itself, only logged, as ``attention_share``.
    """
    weights = attention(model, conversations, hidden)
    targets = conversations.attention_targets
    visual = weights[..., visual_start : visual_start + targets.shape[1]]
    share = (visual * targets[:, None]).sum(-1).mean(-1)
    return {
        "attention_loss": mean_term(-(share + 1e-6).log(), weight),
        "attention_share": logged_mean(share),
    }


def attention(model: LlavaST, conversations: CollatedConversations, hidden: Tensor) -> Tensor:
    """Return the attention weights of the trained heads at the n attention positions.

    Returns:
        [n, heads, P + T]: over the prefix and over the lane of the position.
    """
    layer = model.model.layers[middle_layer(model)]
    assert isinstance(layer, Qwen2DecoderLayer)
    inner = layer.self_attn
    trained_heads = max(1, model.config.language.num_attention_heads // 2)
    groups = inner.num_key_value_groups  # query heads per key head
    key_heads = -(-trained_heads // groups)
    prefix, count, tokens = lane_sizes(conversations.attention_mask, len(hidden))
    rows, positions = conversations.attention_positions.T
    lanes = rows * count + (positions - prefix) // tokens
    in_lane = (positions - prefix) % tokens
    states = layer.input_layernorm(hidden)
    # [B, L, head_dim]
    cos, sin = model.model.rotary_emb(states, position_ids=conversations.positions)
    query = inner.q_proj(states[rows, positions]).unflatten(-1, (-1, inner.head_dim))
    # [n, all heads, head_dim]
    query = _rotate(query, cos[rows, positions], sin[rows, positions])
    # All query heads of the key heads in use, so that groups are complete.
    query = query[:, : key_heads * groups].unflatten(1, (key_heads, groups))
    key = inner.k_proj(states).unflatten(-1, (-1, inner.head_dim))[:, :, :key_heads]
    key = _rotate(key, cos, sin)
    own = key[:, prefix:].unflatten(1, (count, tokens)).flatten(0, 1)
    # index_select: its gradient is much faster than that of indexing with [rows].
    key = torch.cat([key[:, :prefix].index_select(0, rows), own.index_select(0, lanes)], dim=1)
    scores = (
        torch.einsum("nkgd,nlkd->nkgl", query, key).flatten(1, 2)[:, :trained_heads] * inner.scaling
    )
    visible = conversations.attention_mask[lanes, :, in_lane]  # [n, 1, P + T]
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embeddings to heads [..., heads, head_dim]; cos and sin are [..., head_dim]."""
    return heads * cos.unsqueeze(-2) + rotate_half(heads) * sin.unsqueeze(-2)
