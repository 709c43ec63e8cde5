"""The training objective: text tokens by cross-entropy, coordinates by two-hot soft labels.

Source: LLaVA-ST, section 3.2 (Language-Aligned Positional Embedding). A coordinate v in [0, 1] on a
table of R rows is the two-hot label over floor and ceil of v * (R - 1); the loss is the soft
cross-entropy over the whole extended vocabulary. Neighbouring token propagation spreads each
row's gradient to the rows beside it, so that rare coordinates learn from common ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis

COORDINATE_TABLES = (
    "temporal_input_embeddings",
    "temporal_output_embeddings",
    "spatial_height_input_embeddings",
    "spatial_height_output_embeddings",
    "spatial_width_input_embeddings",
    "spatial_width_output_embeddings",
)


class NeighboringTokenPropagation(nn.Module):
    """Parametrization w -> w + Rw - stopgrad(Rw), R[i, j] = 2^-|i-j|.

    The forward value is w to the bit; the gradient of w is (I + R) times the gradient of the value.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        index = torch.arange(rows, dtype=torch.float32)
        self.register_buffer("spread", 2.0 ** -(index[:, None] - index[None, :]).abs())

    def forward(self, weight: Tensor) -> Tensor:
        """Weight f32 [R, D] -> the same values [R, D] with the spread gradient."""
        spread = self.spread.to(weight.dtype) @ weight
        # (spread - spread.detach()) is exactly zero, so that the sum is w to the bit.
        return weight + (spread - spread.detach())


def propagate_to_neighbors(module: nn.Module) -> None:
    """Put NeighboringTokenPropagation on the six tables found under ``module``."""
    for table in coordinate_tables(module):
        parametrize.register_parametrization(
            table, "weight", NeighboringTokenPropagation(table.weight.shape[0])
        )


def stop_propagation(module: nn.Module) -> None:
    """Take the parametrizations off again; the weights keep their values and published names."""
    for table in coordinate_tables(module):
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)


def coordinate_tables(module: nn.Module) -> list[nn.Module]:
    """The six table modules, in the order of COORDINATE_TABLES."""
    found = {name.rsplit(".", 1)[-1]: child for name, child in module.named_modules()}
    return [found[name] for name in COORDINATE_TABLES]


def two_hot(values: Tensor, rows: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Values in [0, 1] on tables of ``rows`` rows -> lower row, upper row (int64), upper's weight.

    The lower row weighs 1 - the upper's; a value beyond the ends is taken to the end.
    """
    position = values.clamp(0.0, 1.0) * (rows - 1)
    low = position.floor()
    high = position.ceil()
    return low.long(), high.long(), position - low


@dataclass(frozen=True)
class Targets:
    """Two-hot targets of n answer tokens: ids int64 [n, 2] and their weights f32 [n, 2]."""

    ids: Tensor
    weights: Tensor


def two_hot_targets(token_ids: Tensor, values: Tensor, config: ModelConfig) -> Targets:
    """Targets of answer tokens.

    ``token_ids`` int64 [n] are the answer's ids; ``values`` f32 [n] the exact coordinate in [0, 1]
    where the token is a coordinate, NaN where it is text (whose target is the id itself).
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
    text = torch.stack([token_ids, token_ids], dim=-1)
    certain = torch.tensor([1.0, 0.0], dtype=weights.dtype, device=weights.device)
    return Targets(
        ids=torch.where(is_coordinate[:, None], ids, text),
        weights=torch.where(is_coordinate[:, None], weights, certain.expand_as(weights)),
    )


def soft_cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Per-token loss f32 [n] of logits [n, vocabulary] against two-hot targets."""
    log_probability = logits.float().log_softmax(dim=-1).gather(1, targets.ids)
    return -(log_probability * targets.weights).sum(dim=-1)
