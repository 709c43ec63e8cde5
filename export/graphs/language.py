"""The decoder as a module that exports well: no cache object, one product where inputs are one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from llava_st_ros.coordinates import Axis
from llava_st_ros.export.graphs.fused_linear import fused_linear, joined
from llava_st_ros.model.llava_st import LlavaST

# How far below a position's score for itself, and so below its highest, those that it does not see
# are put: e^-40 is nothing beside float32's rounding. Of minus infinity ONNX Runtime makes denormal
# numbers, with which its softmax and the product after it take several times as long.
HIDDEN = 40.0


class LanguageGraph(nn.Module):
    """The decoder over a cache that stays outside: prefill and extension are one graph.

    ``ids`` i64 [L]: rows of the vocabulary [text | time | height | width], from its size on rows of
    ``visual`` [W, D], and from -1 downwards rows of ``mixed`` [M, D], which holds coordinate
    inputs; ``rows`` i64 [R]: the positions whose logits are wanted; ``keys``, ``values``: of each
    layer the P positions before, [P, kv_heads, head_dim], positions outermost so that a cache's
    beginning is one piece of memory. Returns logits f32 [R, vocabulary], then each layer's new keys
    and values [L, kv_heads, head_dim], to be put behind the old ones.
    """

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        decoder, config = model.model, model.config.language
        self.layers = nn.ModuleList(
            _Layer(layer, config.num_attention_heads, config.num_key_value_heads)
            for layer in decoder.layers
        )
        self.norm = _RMSNorm(decoder.norm)
        self.register_buffer("frequencies", decoder.rotary_emb.inv_freq.detach().float())
        for name, side, text in (
            ("table", "input", decoder.embed_tokens.weight),
            ("head", "output", model.lm_head.weight),
        ):
            rows = [model.table(axis, side).weight for axis in Axis]
            self.register_buffer(name, joined([text, *rows]))

    def forward(
        self,
        ids: torch.Tensor,
        visual: torch.Tensor,
        mixed: torch.Tensor,
        rows: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        vocabulary, past, length = len(self.table), keys[0].shape[0], ids.shape[0]
        hidden = self.table[ids.clamp(0, vocabulary - 1)]
        hidden = torch.where(
            (ids >= vocabulary).unsqueeze(-1), visual[(ids - vocabulary).clamp(min=0)], hidden
        )
        hidden = torch.where((ids < 0).unsqueeze(-1), mixed[(-1 - ids).clamp(min=0)], hidden)

        places = torch.arange(past + length, device=ids.device)
        # float32 whatever the weights are: places run to thousands.
        angles = places[past:].float().unsqueeze(-1) * self.frequencies.float()
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        mask = torch.where(places.unsqueeze(0) <= places[past:].unsqueeze(1), 0.0, float("-inf"))

        new_keys, new_values = [], []
        for index, layer in enumerate(self.layers):
            # Of the last layer only the wanted positions are read.
            wanted = rows if index == len(self.layers) - 1 else None
            hidden, key, value = layer(hidden, cos, sin, mask, keys[index], values[index], wanted)
            new_keys.append(key)
            new_values.append(value)
        logits = nn.functional.linear(self.norm(hidden), self.head).float()
        return (logits, *new_keys, *new_values)


class _Layer(nn.Module):
    """A Qwen2 decoder layer."""

    def __init__(self, layer: nn.Module, heads: int, kv_heads: int) -> None:
        super().__init__()
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
        wanted: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states [L, D] -> those of the ``wanted`` positions (None: all), keys, values."""
        turned = self.heads + self.kv_heads
        qkv = self.qkv(self.before_attention(hidden)).unflatten(-1, (turned + self.kv_heads, -1))
        states, value = qkv[:, :turned], qkv[:, turned:]
        first, second = states.chunk(2, dim=-1)
        states = states * cos + torch.cat((-second, first), dim=-1) * sin
        query, key = states[:, : self.heads], states[:, self.heads :]
        own = key
        if wanted is not None:
            hidden, query, own, mask = (x[wanted] for x in (hidden, query, own, mask))
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
        """Queries [R, heads, d] over keys and values [P + L, kv_heads, d] -> [R, heads * d].

        ``own`` [R, kv_heads, d] are the keys at the queries' own positions, which they always see.
        Queries of a group share their head's keys without copies of them. Scaled before the product
        and softmax in float32, for float16's sake.
        """
        group = self.heads // self.kv_heads
        query = query * query.shape[-1] ** -0.5
        query = query.unflatten(1, (self.kv_heads, group)).permute(1, 2, 0, 3)
        scores = query.flatten(1, 2) @ keys.permute(1, 2, 0)  # [kv_heads, group * R, P + L]
        least = (query * own.transpose(0, 1).unsqueeze(1)).float().sum(-1, keepdim=True) - HIDDEN
        scores = torch.maximum(scores.float().unflatten(1, (group, -1)) + mask, least)
        weights = scores.softmax(-1).to(values.dtype).flatten(1, 2)
        read = (weights @ values.transpose(0, 1)).unflatten(1, (group, -1))
        return read.permute(2, 0, 1, 3).flatten(1)


class _RMSNorm(nn.Module):
    """Qwen2's, in float32, written so that ONNX Runtime knows it for one operator."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return normed.to(x.dtype) * self.weight
