"""The Spatial-Temporal Packer in absorbed form: mathematically equal to the reference, cheaper.

Each region has one query q and K keys and values. With d the dimension of a head and k', v' the
normalized keys and values before their LayerNorm's weights, the identities are:

- Keys: q^T (W_k k + b_k) = (W_k^T q)^T k + q^T b_k. The query is projected once instead of K keys,
  and q^T b_k is constant over a region's keys, so the softmax does not change without it.
- Values: sum_i a_i (W_v v_i + b_v) = W_v (sum_i a_i v_i) + b_v, because the weights a_i sum to 1.
  Values are summed first and projected once.
- LayerNorm: LN(x) = g * x' + c, so W LN(x) + b = (W diag(g)) x' + (W c + b).
- Outputs: W_to_out (W_out x + b_out) is one matrix and one constant; b_v goes into the constant.

What is left between the matrices is ``region_attention``. ``model.packer.reference`` is the
readable form, and the one that is trained.
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
    """A PointToRegionAttention in absorbed form; matrices are computed in float64 and cast back."""

    def __init__(self, attention: PointToRegionAttention) -> None:
        super().__init__()
        multi = attention.attn
        heads, dim = multi.num_heads, multi.head_dim
        self.epsilon = attention.ln_k.eps
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        # W LN(x) + b = (W diag(g)) x' + (W c + b)
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

        def constant_of(value: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(value.detach().to(multi.in_proj_weight), requires_grad=False)

        self.query_weight, self.query_bias = constant_of(wq), constant_of(bq)
        self.key_weight = constant_of((wk * dim**-0.5).unflatten(0, (heads, dim)))  # [H, d, E]
        self.value_weight = constant_of(wv.unflatten(0, (heads, dim)).transpose(1, 2))  # [H, E, d]
        self.out_weight, self.out_bias = constant_of(out), constant_of(constant)

    def forward(
        self, points: torch.Tensor, tokens: torch.Tensor, spatial_region: int, temporal_region: int
    ) -> torch.Tensor:
        """Attend from ``points`` [F/t, h/s, w/s, D] to the regions of ``tokens`` [F, h, w, D].

        Returns [F/t, h/s, w/s, D].
        """
        attended = self.attend(
            self.to_q(points),
            self.to_k(tokens),
            self.to_v(tokens),
            spatial_region,
            temporal_region,
        )
        return nn.functional.linear(attended, self.out_weight, self.out_bias)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spatial_region: int,
        temporal_region: int,
    ) -> torch.Tensor:
        """The attention without its output projection.

        Args:
            query: What ``to_q`` returns for the points [F/t, h/s, w/s, E].
            key: What ``to_k`` returns for the tokens [F, h, w, E].
            value: What ``to_v`` returns for the tokens [F, h, w, E].
            spatial_region: The side of a region.
            temporal_region: The length of a region in frames.

        Returns:
            The heads' outputs, concatenated [F/t, h/s, w/s, E].
        """
        heads, dim, embed_dim = self.key_weight.shape
        grid = query.shape[:3]
        query = nn.functional.layer_norm(query, (embed_dim,), eps=self.epsilon)
        query = nn.functional.linear(query, self.query_weight, self.query_bias)
        # Heads outermost, so that each head is one matrix product over all points.
        query = query.flatten(0, 2).unflatten(-1, (heads, dim)).transpose(0, 1) @ self.key_weight
        query = query.transpose(0, 1).unflatten(0, grid)
        sums = region_attention(query, key, value, spatial_region, temporal_region, self.epsilon)
        sums = sums.flatten(0, 2).transpose(0, 1) @ self.value_weight  # [H, points, d]
        return sums.transpose(0, 1).flatten(1).unflatten(0, grid)


class AbsorbedPacker(nn.Module):
    """A SpatialTemporalPacker in absorbed form, for inference on one window at a time."""

    def __init__(self, packer: SpatialTemporalPacker) -> None:
        super().__init__()
        self.spatial_region, self.temporal_region = packer.spatial_region, packer.temporal_region
        self.shared, self.fast, self.slow = (
            AbsorbedAttention(part.devide_attention)
            for part in (packer.token_packer, packer.token_packer_fast, packer.token_packer_slow)
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack visual tokens after LAPE [F, g, g, D].

        Returns fast [F, g/s^2, g/s^2, D] and slow [F/t, g/s, g/s, D] tokens.
        """
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
    """Select the middle token of each region: [F, h, w, D] -> [F/t, h/s, w/s, D]."""
    regions = (
        tokens.unflatten(2, (-1, spatial)).unflatten(1, (-1, spatial)).unflatten(0, (-1, temporal))
    )
    return middle(middle(middle(regions, 5), 3), 1)
