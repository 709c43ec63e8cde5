"""The objective against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llava_st_ros.config import (
    LanguageConfig,
    ModelConfig,
    PackerConfig,
    SpecialTokens,
    VisionConfig,
)
from llava_st_ros.training.objective import (
    COORDINATE_TABLES,
    Targets,
    propagate_to_neighbours,
    soft_cross_entropy,
    stop_propagation,
    two_hot,
    two_hot_targets,
)


def config() -> ModelConfig:
    return ModelConfig(
        image_size=72,
        patch_size=8,
        vision=VisionConfig(8, 16, 1, 2),
        language=LanguageConfig(8, 16, 1, 2, 1, vocab_size=30),
        packer=PackerConfig(8, 2),
        special_tokens=SpecialTokens(*range(14)),
        num_temporal_tokens=10,
        num_spatial_tokens=5,
        num_frames=5,
    )


def test_two_hot_lies_between_two_rows() -> None:
    low, high, upper = two_hot(torch.tensor([0.0, 0.3, 0.5, 1.0, 1.7, -2.0]), 5)
    assert low.tolist() == [0, 1, 2, 4, 4, 0]
    assert high.tolist() == [0, 2, 2, 4, 4, 0]
    assert torch.allclose(upper, torch.tensor([0.0, 0.2, 0.0, 0.0, 0.0, 0.0]), atol=1e-6)


def test_targets_know_their_table() -> None:
    # Vocabulary: 30 text rows, times 30..39, heights 40..44, widths 45..49.
    nan = float("nan")
    ids = torch.tensor([7, 33, 41, 46])
    targets = two_hot_targets(ids, torch.tensor([nan, 0.35, 0.3, 0.3]), config())
    assert targets.ids[0, 0] == 7 and targets.weights[0].tolist() == [1.0, 0.0]
    assert targets.ids[1:].tolist() == [[33, 34], [41, 42], [46, 47]]
    expected = torch.tensor([[0.85, 0.15], [0.8, 0.2], [0.8, 0.2]])
    assert torch.allclose(targets.weights[1:], expected, atol=1e-5)


def test_soft_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2)]])
    targets = Targets(torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]]))
    expected = -(0.75 * math.log(0.5) + 0.25 * math.log(0.2))
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(expected, abs=1e-6)


class Tables(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        for name in COORDINATE_TABLES:
            setattr(self, name, nn.Embedding(rows, 3))


def test_propagation_keeps_the_value_and_spreads_the_gradient() -> None:
    tables = Tables(4)
    table = tables.temporal_output_embeddings
    before = table.weight.detach().clone()
    propagate_to_neighbours(tables)
    assert torch.equal(table.weight, before)
    table.weight[1].sum().backward()
    gradient = table.parametrizations.weight.original.grad
    # d/dw_i of row 1 is 1 at i = 1 by itself, and 2^-|i - 1| more by the propagation.
    assert torch.allclose(gradient[:, 0], torch.tensor([0.5, 2.0, 0.5, 0.25]))
    stop_propagation(tables)
    assert torch.equal(table.weight, before)
    assert "temporal_output_embeddings.weight" in tables.state_dict()
