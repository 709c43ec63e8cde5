"""The Spatial-Temporal Packer with its products in another order: equal, and cheaper.

One query meets all keys of a region, so it is the query that is taken through the key projection,
not every key: (W_k k + b) . q = k . (W_k^T q) + b . q, and what is the same for all keys of a query
leaves the softmax as it is. Values are summed first and projected once. LayerNorm's weights move
into the same matrices, and the two output matrices are one. What is left between the products is
``region_attention``. ``model.packer`` is the readable reference, and what is trained.
"""

from __future__ import annotations

import torch
from torch import nn

from llava_st_ros.model.packer.reference import (
    PointToRegionAttention,
    SpatialTemporalPacker,
    middle,
)
from llava_st_ros.model.packer.region_attention import region_attention


class AbsorbedAttention(nn.Module):
    """A PointToRegionAttention's numbers, absorbed (in float64, then in its own dtype)."""

    def __init__(self, attention: PointToRegionAttention) -> None:
        super().__init__()
        multi = attention.attn
        heads, dim = multi.num_heads, multi.head_dim
        self.epsilon = attention.ln_k.eps
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        # LN(x) = x' * g + c with x' normalized, so W LN(x) + b = (W * g) x' + (W c + b).
        (wq, bq), (wk, _), (wv, bv) = (
            (w * norm.weight.double(), w @ norm.bias.double() + b)
            for w, b, norm in zip(
                multi.in_proj_weight.double().chunk(3),
                multi.in_proj_bias.double().chunk(3),
                (attention.ln_q, attention.ln_k, attention.ln_v),
            )
        )
        out = attention.to_out.weight.double() @ multi.out_proj.weight.double()
        constant = out @ bv + attention.to_out.weight.double() @ multi.out_proj.bias.double()

        def keep(value: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(value.detach().to(multi.in_proj_weight), requires_grad=False)

        self.query_weight, self.query_bias = keep(wq), keep(bq)
        self.key_weight = keep((wk * dim**-0.5).unflatten(0, (heads, dim)))  # [H, d, E]
        self.value_weight = keep(wv.unflatten(0, (heads, dim)).transpose(1, 2))  # [H, E, d]
        self.out_weight, self.out_bias = keep(out), keep(constant)

    def forward(
        self, points: torch.Tensor, tokens: torch.Tensor, spatial_region: int, temporal_region: int
    ) -> torch.Tensor:
        """Points [F/t, h/s, w/s, D] of the regions of ``tokens`` [F, h, w, D] -> their answers."""
        mixed = self.mix(
            self.to_q(points),
            self.to_k(tokens),
            self.to_v(tokens),
            spatial_region,
            temporal_region,
        )
        return nn.functional.linear(mixed, self.out_weight, self.out_bias)

    def mix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spatial_region: int,
        temporal_region: int,
    ) -> torch.Tensor:
        """The answers before the output matrix: ``query`` [F/t, h/s, w/s, E], what ``to_q`` makes
        of the points, ``key`` and ``value`` [F, h, w, E] -> [F/t, h/s, w/s, E]."""
        heads, dim, wide = self.key_weight.shape
        places = query.shape[:3]
        query = nn.functional.layer_norm(query, (wide,), eps=self.epsilon)
        query = nn.functional.linear(query, self.query_weight, self.query_bias)
        # Heads outermost, so that a head's product is one matrix over all points.
        query = query.flatten(0, 2).unflatten(-1, (heads, dim)).transpose(0, 1) @ self.key_weight
        query = query.transpose(0, 1).unflatten(0, places)
        mixed = region_attention(query, key, value, spatial_region, temporal_region, self.epsilon)
        mixed = mixed.flatten(0, 2).transpose(0, 1) @ self.value_weight  # [H, points, d]
        return mixed.transpose(0, 1).flatten(1).unflatten(0, places)


class AbsorbedPacker(nn.Module):
    """A SpatialTemporalPacker in absorbed form, for inference, of one window at a time."""

    def __init__(self, packer: SpatialTemporalPacker) -> None:
        super().__init__()
        self.spatial_region, self.temporal_region = packer.spatial_region, packer.temporal_region
        self.shared, self.fast, self.slow = (
            AbsorbedAttention(part.devide_attention)
            for part in (packer.token_packer, packer.token_packer_fast, packer.token_packer_slow)
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual tokens after LAPE [F, g, g, D] -> fast [F, g/s^2, g/s^2, D] and slow
        [F/t, g/s, g/s, D]."""
        packed = self._pack(self.shared, features, self.spatial_region, 1)
        fast = self._pack(self.fast, packed, self.spatial_region, 1)
        slow = self._pack(self.slow, packed, 1, self.temporal_region)
        return fast, slow

    @staticmethod
    def _pack(
        attention: AbsorbedAttention, tokens: torch.Tensor, spatial: int, temporal: int
    ) -> torch.Tensor:
        points = middle_points(tokens, spatial, temporal)
        return points + attention(points, tokens, spatial, temporal)


def middle_points(tokens: torch.Tensor, spatial: int, temporal: int) -> torch.Tensor:
    """[F, h, w, D] -> the middle point of each region [F/t, h/s, w/s, D]."""
    boxes = (
        tokens.unflatten(2, (-1, spatial)).unflatten(1, (-1, spatial)).unflatten(0, (-1, temporal))
    )
    return middle(middle(middle(boxes, 5), 3), 1)
