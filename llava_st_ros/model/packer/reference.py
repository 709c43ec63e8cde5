"""The Spatial-Temporal Packer in its published form (paper, section 3.3).

Compresses visual tokens by point-to-region attention. Each packer splits its input into regions and
outputs one token per region: the region's middle token, plus the attention of that token, as the
only query, to all tokens of the region.
"""

from __future__ import annotations

import torch
from torch import nn

from llava_st_ros.config import PackerConfig


class PointToRegionAttention(nn.Module):
    """One query attends to the tokens of its region. Parameters have the published names."""

    def __init__(self, width: int, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (_mlp(width, embed_dim) for _ in range(3))
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(embed_dim) for _ in range(3))
        # Only holds the parameters: its forward would need a batch entry per region.
        self.attn = nn.MultiheadAttention(embed_dim, num_heads)
        self.to_out = nn.Linear(embed_dim, width, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, point: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        """Attend from points [..., D] to their regions [..., K, D] -> [..., D]."""
        weights = self.attn.in_proj_weight.chunk(3)
        biases = self.attn.in_proj_bias.chunk(3)
        heads, dim = self.attn.num_heads, self.attn.head_dim
        query, key, value = (
            nn.functional.linear(norm(project(x)), weight, bias).unflatten(-1, (heads, dim))
            for norm, project, x, weight, bias in (
                (self.ln_q, self.to_q, point, weights[0], biases[0]),
                (self.ln_k, self.to_k, region, weights[1], biases[1]),
                (self.ln_v, self.to_v, region, weights[2], biases[2]),
            )
        )
        scores = torch.einsum("...hd,...khd->...hk", query * dim**-0.5, key)
        mixed = torch.einsum("...hk,...khd->...hd", scores.softmax(-1), value)
        return self.to_out(self.attn.out_proj(mixed.flatten(-2)))


class RegionPacker(nn.Module):
    """One packer: regions [..., K, D] and their middle points [..., D] -> tokens [..., D]."""

    def __init__(self, width: int, config: PackerConfig) -> None:
        super().__init__()
        # The spelling of the published checkpoints.
        self.devide_attention = PointToRegionAttention(width, config.embed_dim, config.num_heads)

    def forward(self, point: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        return point + self.devide_attention(point, region)


class SpatialTemporalPacker(nn.Module):
    """``token_packer`` shrinks each frame's grid; the fast and slow packers continue from it."""

    def __init__(self, width: int, config: PackerConfig) -> None:
        super().__init__()
        self.spatial_region, self.temporal_region = config.spatial_region, config.temporal_region
        self.token_packer = RegionPacker(width, config)
        self.token_packer_slow = RegionPacker(width, config)
        self.token_packer_fast = RegionPacker(width, config)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack visual tokens after LAPE.

        Args:
            features: [..., F, g, g, D]; s divides g twice, t divides F, with s and t the sizes of
                the spatial and temporal regions.

        Returns:
            Fast tokens [..., F, g/s^2, g/s^2, D] and slow tokens [..., F/t, g/s, g/s, D].
        """
        packed = self.token_packer(*spatial_regions(features, self.spatial_region))
        fast = self.token_packer_fast(*spatial_regions(packed, self.spatial_region))
        slow = self.token_packer_slow(*temporal_regions(packed, self.temporal_region))
        return fast, slow


def spatial_regions(x: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., h, w, D] -> middle points [..., h/side, w/side, D] and regions [.., side^2, D]."""
    x = x.unflatten(-3, (-1, side)).unflatten(-2, (-1, side)).movedim(-3, -4)
    x = x.contiguous()  # [..., h/side, w/side, side, side, D]
    return middle(middle(x, -3), -2), x.flatten(-3, -2)


def temporal_regions(x: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., F, h, w, D] -> middle points [..., F/length, h, w, D] and regions [.., length, D]."""
    x = x.unflatten(-4, (-1, length)).movedim(-4, -2)
    return middle(x, -2), x


def middle(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The middle along ``dim`` by linear interpolation: of an even count, the mean of two."""
    count = x.shape[dim]
    if count % 2:
        return x.select(dim, count // 2)
    return x.narrow(dim, count // 2 - 1, 2).mean(dim)


def _mlp(width: int, embed_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim))
