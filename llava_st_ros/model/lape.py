"""LAPE, Language-Aligned Positional Embedding (paper, section 3.2).

Vision and language share the coordinate tables. Each axis (time, height, width) has an input table
and an output table [rows, D]: the coordinate tokens' embeddings and their rows of the output head.
The mean of the two is added to the visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

TABLE_STD = 0.02


class CoordinateTable(nn.Module):
    """A table of coordinate rows; row k represents the value k / (rows - 1).

    Read it through ``weight`` only, so that training can register a parametrization on it
    (neighboring token propagation).
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=TABLE_STD)

    def interpolate(self, values: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """Interpolate linearly between rows: values [K], clipped to [0, 1] -> [K, D]."""
        weight = self.weight
        # float64, as in the published code: rounding must not move 0.749 * 99 across a row.
        values = torch.as_tensor(values, dtype=torch.float64, device=weight.device)
        position = values.clamp(0.0, 1.0) * (weight.shape[0] - 1)
        low, high = position.floor().long(), position.ceil().long()
        ratio = (position - low).to(weight.dtype).unsqueeze(-1)
        return weight[low] * (1 - ratio) + weight[high] * ratio


def resize_rows(table: torch.Tensor, size: int) -> torch.Tensor:
    """Resize a table [rows, D] linearly to [size, D], as an image (``align_corners=False``)."""
    columns = table.T.unsqueeze(0)
    resized = nn.functional.interpolate(columns, size, mode="linear", align_corners=False)
    return resized[0].T


def positional_embedding(
    temporal: torch.Tensor, height: torch.Tensor, width: torch.Tensor, grid: int
) -> torch.Tensor:
    """Compute T[t] + H[y] + W[x] for each frame and patch.

    Args:
        temporal: The frames' rows of the temporal table [F, D].
        height: The complete height table [rows, D].
        width: The complete width table [rows, D].
        grid: Patches per side.

    Returns:
        [F, grid * grid, D], row-major.
    """
    plane = resize_rows(height, grid).unsqueeze(1) + resize_rows(width, grid).unsqueeze(0)
    return temporal.unsqueeze(1) + plane.flatten(0, 1).unsqueeze(0)
