"""The vision tower and the projector, written for export.

Queries, keys and values are one product; reshapes use constant sizes; LayerNorm and GELU export as
one operator each.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipEncoderLayer

from llava_st_ros.export.graphs.fused_linear import fused_linear
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.model.vision import VisionTower


class VisionGraph(nn.Module):
    """Encode images: pixels -> features after the projector, before LAPE.

    Input: normalized pixels f32 [B, 3, S, S]. Output: features [B, N, D].
    """

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        tower, projector = model.model.vision_tower, model.model.mm_projector
        assert isinstance(tower, VisionTower) and isinstance(projector, nn.Module)
        encoder = tower.encoder
        assert isinstance(encoder, SiglipEncoder)
        heads = model.config.vision.num_attention_heads
        self.embeddings = tower.embeddings
        self.layers = nn.ModuleList(_EncoderLayer(layer, heads) for layer in encoder.layers)
        self.projector = projector

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(pixels)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.projector(hidden)


class _EncoderLayer(nn.Module):
    """A SigLIP encoder layer."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        assert isinstance(layer, SiglipEncoderLayer)
        attention = layer.self_attn
        self.heads = heads
        self.before_attention, self.before_mlp = layer.layer_norm1, layer.layer_norm2
        self.qkv = fused_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.mlp = attention.out_proj, layer.mlp

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.before_attention(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # each [B, heads, N, d]
        # Scaling before the product and softmax in float32 avoid overflow in float16.
        query = query * query.shape[-1] ** -0.5
        weights = (query @ key.transpose(-1, -2)).float().softmax(-1).to(value.dtype)
        hidden = hidden + self.out((weights @ value).transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.before_mlp(hidden))
