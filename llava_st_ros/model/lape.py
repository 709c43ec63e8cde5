"""Language-Aligned Positional Embedding: coordinates that vision and words share (section 3.2).

Each axis (time, height, width) has an input table and an output table [rows, D]. They are the
coordinate tokens' embeddings and logits, and their mean is added to the visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

TABLE_STD = 0.02


class CoordinateTable(nn.Module):
    """One table of coordinate rows: row k stands for the value k / (rows - 1).

    It is read through ``weight`` only, so that training may register a parametrisation on it
    (neighboring token propagation).
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=TABLE_STD)

    def mix(self, values: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """Values [K], clipped to [0, 1] -> [K, D]: the linear mix of each value's two rows."""
        weight = self.weight
        # float64, as the published code's: 0.749 * 99 must not fall on the other side of a row.
        values = torch.as_tensor(values, dtype=torch.float64, device=weight.device)
        position = values.clamp(0.0, 1.0) * (weight.shape[0] - 1)
        low, high = position.floor().long(), position.ceil().long()
        ratio = (position - low).to(weight.dtype).unsqueeze(-1)
        return weight[low] * (1 - ratio) + weight[high] * ratio


def resize_rows(table: torch.Tensor, size: int) -> torch.Tensor:
    """A table [rows, D] resized to [size, D], linearly, as image samples (corners not aligned)."""
    columns = table.T.unsqueeze(0)
    resized = nn.functional.interpolate(columns, size, mode="linear", align_corners=False)
    return resized[0].T


def positional_embedding(
    temporal: torch.Tensor, height: torch.Tensor, width: torch.Tensor, grid: int
) -> torch.Tensor:
    """What LAPE adds: T[t] + H[y] + W[x].

    ``temporal`` [F, D] holds the rows of the frames, ``height`` and ``width`` are whole tables
    [rows, D]. Returns [F, grid * grid, D], row-major.
    """
    plane = resize_rows(height, grid).unsqueeze(1) + resize_rows(width, grid).unsqueeze(0)
    return temporal.unsqueeze(1) + plane.flatten(0, 1).unsqueeze(0)
