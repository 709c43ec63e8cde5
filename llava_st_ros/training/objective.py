"""The training objective: cross-entropy on text tokens, two-hot soft labels on coordinates.

Source: LLaVA-ST, section 3.2 (Language-Aligned Positional Embedding). The label of a coordinate v
in [0, 1] on a table of R rows is two-hot, over the floor and the ceiling of v * (R - 1). The loss
is the soft cross-entropy over the complete extended vocabulary. Neighboring token propagation
spreads the gradient of each row to nearby rows, so that rare coordinates learn from frequent ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.model.lape import CoordinateTable

COORDINATE_TABLES = tuple(
    f"{axis.table}_{side}_embeddings" for axis in Axis for side in ("input", "output")
)


class NeighboringTokenPropagation(nn.Module):
    """The parametrization w -> w + Rw - stopgrad(Rw) with R[i, j] = 2^-|i-j|.

    The forward value equals w bit for bit. The gradient of w is (I + R) times that of the value.
    """

    spread: Tensor  # R, float32 [rows, rows]

    def __init__(self, rows: int) -> None:
        super().__init__()
        index = torch.arange(rows, dtype=torch.float32)
        self.register_buffer("spread", 2.0 ** -(index[:, None] - index[None, :]).abs())

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` [rows, D] unchanged, with the spread gradient."""
        spread = self.spread.to(weight.dtype) @ weight
        # The difference is exactly zero, so the sum equals the weight in every dtype.
        return weight + (spread - spread.detach())


def propagate_to_neighbors(module: nn.Module) -> None:
    """Register NeighboringTokenPropagation on the six coordinate tables of ``module``."""
    for table in coordinate_tables(module):
        propagation = NeighboringTokenPropagation(table.weight.shape[0]).to(table.weight.device)
        parametrize.register_parametrization(table, "weight", propagation)


def stop_propagation(module: nn.Module) -> None:
    """Remove the parametrizations. The weights keep their values and published names."""
    for table in coordinate_tables(module):
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)


def coordinate_tables(module: nn.Module) -> list[CoordinateTable]:
    """Return the six tables of ``module`` in the order of COORDINATE_TABLES."""
    tables = {
        name.rsplit(".", 1)[-1]: child
        for name, child in module.named_modules()
        if isinstance(child, CoordinateTable)
    }
    return [tables[name] for name in COORDINATE_TABLES]


def two_hot(values: Tensor, rows: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two-hot labels of values on tables of ``rows`` rows.

    Args:
        values: Values in [0, 1]; others are clamped.
        rows: The size of the table of each value.

    Returns:
        The lower row and the upper row (int64), and the weight of the upper one. The weight of the
        lower one is 1 minus that.
    """
    position = values.clamp(0.0, 1.0) * (rows - 1)
    low = position.floor()
    high = position.ceil()
    return low.long(), high.long(), position - low


@dataclass(frozen=True)
class Targets:
    """Two-hot targets of n answer tokens.

    Attributes:
        ids: The two ids of each, int64 [n, 2].
        weights: Their weights, float32 [n, 2].
    """

    ids: Tensor
    weights: Tensor


def two_hot_targets(token_ids: Tensor, values: Tensor, config: ModelConfig) -> Targets:
    """Return the targets of answer tokens.

    Args:
        token_ids: Ids of the answer's tokens, int64 [n].
        values: The exact coordinate in [0, 1] of coordinate tokens, NaN for text, float32 [n]. The
            target of a text token is its own id.
        config: The model's geometry.
    """
    coordinates = config.coordinates
    time, height, width = (coordinates.offset(axis) for axis in Axis)
    offset = torch.where(token_ids >= width, width, torch.where(token_ids >= height, height, time))
    in_space = coordinates.is_space(token_ids)
    rows = torch.where(in_space, coordinates.space_rows, coordinates.time_rows)
    is_coordinate = ~values.isnan() & ~coordinates.is_text(token_ids)
    low, high, upper = two_hot(values.nan_to_num(0.0), rows)
    ids = torch.stack([offset + low, offset + high], dim=-1)
    weights = torch.stack([1.0 - upper, upper], dim=-1)
    one_hot_ids = torch.stack([token_ids, token_ids], dim=-1)
    one_hot = torch.tensor([1.0, 0.0], dtype=weights.dtype, device=weights.device)
    return Targets(
        ids=torch.where(is_coordinate[:, None], ids, one_hot_ids),
        weights=torch.where(is_coordinate[:, None], weights, one_hot.expand_as(weights)),
    )


def soft_cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Return the loss of each token, float32 [n], of logits [n, vocabulary]."""
    log_probability = logits.float().log_softmax(dim=-1).gather(1, targets.ids)
    return -(log_probability * targets.weights).sum(dim=-1)
