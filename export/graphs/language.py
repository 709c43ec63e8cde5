"""The decoder, written for export: an external KV cache, and fused products of one input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

from llava_st_ros.coordinates import Axis
from llava_st_ros.export.graphs.fused_linear import fused_linear, shared_concat
from llava_st_ros.model.llava_st import LlavaST

# Masked scores are this far below a position's score for itself, and so below its maximum: e^-40 is
# less than float32's rounding. With minus infinity ONNX Runtime computes denormal numbers, and the
# softmax and the product after it take several times as long.
MASK_MARGIN = 40.0


class LanguageGraph(nn.Module):
    """The decoder and its head over an external KV cache.

    The same graph is used for prefill and decoding. The positions are the outermost axis of keys
    and values, so a prefix of the cache is contiguous memory.
    """

    frequencies: torch.Tensor
    table: torch.Tensor
    head: torch.Tensor

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        decoder, config = model.model, model.config.language
        self.layers = nn.ModuleList(
            _DecoderLayer(layer, config.num_attention_heads, config.num_key_value_heads)
            for layer in decoder.layers
        )
        self.norm = _RMSNorm(decoder.norm)
        self.register_buffer("frequencies", decoder.rotary_emb.inv_freq.detach().float())
        for name, side, text in (
            ("table", "input", decoder.embed_tokens.weight),
            ("head", "output", model.lm_head.weight),
        ):
            coordinates = [model.table(axis, side).weight for axis in Axis]
            self.register_buffer(name, shared_concat([text, *coordinates]))

    def forward(
        self,
        ids: torch.Tensor,
        visual: torch.Tensor,
        mixed: torch.Tensor,
        rows: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run L new positions after P cached ones.

        Args:
            ids: i64 [L]. An id below the vocabulary's size is a row of the vocabulary
                [text | time | height | width]; ids from its size on are rows of ``visual``; -1, -2,
                ... are rows 0, 1, ... of ``mixed``.
            visual: Visual tokens [W, D].
            mixed: Embeddings of coordinate inputs [M, D].
            rows: New positions whose logits are returned, i64 [R].
            keys: Cached keys of each layer [P, kv_heads, head_dim].
            values: Cached values of each layer [P, kv_heads, head_dim].

        Returns:
            Logits f32 [R, vocabulary], then the new keys and then the new values of each layer,
            each [L, kv_heads, head_dim].
        """
        vocabulary, past, length = len(self.table), keys[0].shape[0], ids.shape[0]
        hidden = self.table[ids.clamp(0, vocabulary - 1)]
        hidden = torch.where(
            (ids >= vocabulary).unsqueeze(-1), visual[(ids - vocabulary).clamp(min=0)], hidden
        )
        hidden = torch.where((ids < 0).unsqueeze(-1), mixed[(-1 - ids).clamp(min=0)], hidden)

        positions = torch.arange(past + length, device=ids.device)
        # float32 in every precision: positions run to thousands.
        angles = positions[past:].float().unsqueeze(-1) * self.frequencies.float()
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        visible = positions.unsqueeze(0) <= positions[past:].unsqueeze(1)
        mask = torch.where(visible, 0.0, float("-inf"))

        new_keys, new_values = [], []
        for index, layer in enumerate(self.layers):
            # The last layer computes only the positions whose logits are returned.
            needed = rows if index == len(self.layers) - 1 else None
            hidden, key, value = layer(hidden, cos, sin, mask, keys[index], values[index], needed)
            new_keys.append(key)
            new_values.append(value)
        logits = nn.functional.linear(self.norm(hidden), self.head).float()
        return (logits, *new_keys, *new_values)


class _DecoderLayer(nn.Module):
    """A Qwen2 decoder layer."""

    def __init__(self, layer: nn.Module, heads: int, kv_heads: int) -> None:
        super().__init__()
        assert isinstance(layer, Qwen2DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.kv_heads = heads, kv_heads
        self.before_attention = _RMSNorm(layer.input_layernorm)
        self.before_mlp = _RMSNorm(layer.post_attention_layernorm)
        self.qkv = fused_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = attention.o_proj
        self.gate_up, self.down = fused_linear(mlp.gate_proj, mlp.up_proj), mlp.down_proj

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
        old_keys: torch.Tensor,
        old_values: torch.Tensor,
        needed: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states [L, D] -> those of the ``needed`` positions (None: all), keys, values."""
        rotated = self.heads + self.kv_heads  # queries and keys get rotary embeddings
        qkv = self.qkv(self.before_attention(hidden)).unflatten(-1, (rotated + self.kv_heads, -1))
        states, value = qkv[:, :rotated], qkv[:, rotated:]
        first, second = states.chunk(2, dim=-1)
        states = states * cos + torch.cat((-second, first), dim=-1) * sin
        query, key = states[:, : self.heads], states[:, self.heads :]
        own = key
        if needed is not None:
            hidden, query, own, mask = (x[needed] for x in (hidden, query, own, mask))
        keys, values = torch.cat((old_keys, key)), torch.cat((old_values, value))
        hidden = hidden + self.out(self._attend(query, own, keys, values, mask))
        gate, up = self.gate_up(self.before_mlp(hidden)).chunk(2, dim=-1)
        return hidden + self.down(nn.functional.silu(gate) * up), key, value

    def _attend(
        self,
        query: torch.Tensor,
        own: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Grouped-query attention.

        Queries of a group share a key head without copies of the keys. Scaling before the product
        and softmax in float32 avoid overflow in float16.

        Args:
            query: Queries [R, heads, d].
            own: Keys at the queries' own positions [R, kv_heads, d], which are never masked.
            keys: Keys [P + L, kv_heads, d].
            values: Values [P + L, kv_heads, d].
            mask: 0 or minus infinity [R, P + L].

        Returns:
            Attention output [R, heads * d].
        """
        group = self.heads // self.kv_heads
        query = query * query.shape[-1] ** -0.5
        query = query.unflatten(1, (self.kv_heads, group)).permute(1, 2, 0, 3)
        scores = query.flatten(1, 2) @ keys.permute(1, 2, 0)  # [kv_heads, group * R, P + L]
        own_scores = (query * own.transpose(0, 1).unsqueeze(1)).float().sum(-1, keepdim=True)
        lowest = own_scores - MASK_MARGIN
        scores = torch.maximum(scores.float().unflatten(1, (group, -1)) + mask, lowest)
        weights = scores.softmax(-1).to(values.dtype).flatten(1, 2)
        output = (weights @ values.transpose(0, 1)).unflatten(1, (group, -1))
        return output.permute(2, 0, 1, 3).flatten(1)


class _RMSNorm(nn.Module):
    """Qwen2's RMSNorm in float32, in the form that ONNX Runtime fuses into one operator."""

    def __init__(self, norm: Qwen2RMSNorm) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return normed.to(x.dtype) * self.weight
