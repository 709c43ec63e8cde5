"""LAPE: the coordinate tables, and the embedding that they add to the visual tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from llava_st_ros.coordinates import Axis
from llava_st_ros.model.lape import CoordinateTable, positional_embedding, resize_rows
from llava_st_ros.model.llava_st import LlavaST
from support.tiny_model import tiny_config, tiny_model, tiny_video_prompt


@pytest.fixture(scope="module")
def model() -> LlavaST:
    return tiny_model(tiny_config())


def test_values_are_interpolated_between_two_rows() -> None:
    table = CoordinateTable(11, 4)
    rows = table.weight
    mixed = table.interpolate([0.3, 0.35, 0.0, 1.0, -2.0, 1.5])
    for found, expected in zip(
        mixed, (rows[3], (rows[3] + rows[4]) / 2, rows[0], rows[10], rows[0], rows[10])
    ):
        torch.testing.assert_close(found, expected)


def test_tables_are_resized_like_images() -> None:
    table = torch.randn(12, 3)
    assert torch.equal(resize_rows(table, 12), table)
    halved = resize_rows(table, 6)
    torch.testing.assert_close(halved, (table[0::2] + table[1::2]) / 2)


def test_embedding_is_the_sum_of_time_height_and_width() -> None:
    temporal, height, width = torch.randn(2, 5), torch.randn(3, 5), torch.randn(3, 5)
    added = positional_embedding(temporal, height, width, 3)
    assert added.shape == (2, 9, 5)
    torch.testing.assert_close(added[1, 2 * 3 + 1], temporal[1] + height[2] + width[1])


def test_embedding_averages_input_and_output_tables(model: LlavaST) -> None:
    added = model.positional_embedding([4, 0])
    time = [model.table(Axis.TIME, side).weight for side in ("input", "output")]
    torch.testing.assert_close(
        added[0] - added[1], ((time[0] + time[1])[4] - (time[0] + time[1])[0]).expand(81, -1) / 2
    )


def test_an_image_is_a_video_frame_at_time_zero(model: LlavaST) -> None:
    features = torch.randn(2, 81, 32)
    torch.testing.assert_close(
        model.image_tokens(features), features + model.positional_embedding([0])
    )


def test_coordinate_tokens_use_the_table_rows(model: LlavaST) -> None:
    config = model.config
    text, rows = config.language.vocab_size, config.num_temporal_tokens
    offsets = (text, text + rows, text + rows + config.num_spatial_tokens)
    hidden = torch.randn(32)
    logits = model.logits(hidden)
    assert logits.shape == (config.vocabulary,)
    for axis, offset in zip(Axis, offsets):
        embedded = model.embed_tokens(torch.tensor([offset + 3]))[0]
        assert torch.equal(embedded, model.table(axis, "input").weight[3])
        torch.testing.assert_close(
            logits[offset + 3], model.table(axis, "output").weight[3] @ hidden
        )
    text = model.embed_tokens(torch.tensor([config.coordinates.offset(Axis.TIME) - 1]))[0]
    assert torch.equal(text, model.model.embed_tokens.weight[-1])
    for outside in (-1, config.vocabulary):
        with pytest.raises(IndexError):
            model.embed_tokens(torch.tensor([outside]))


class Spread(nn.Module):
    """A parametrization whose gradient reaches the neighboring row."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + weight.roll(1, 0) - weight.roll(1, 0).detach()


def test_tables_can_be_parametrized() -> None:
    """The gradient of every use of a table passes through a parametrization of its weight."""
    model = tiny_model(tiny_config(compat="paper"))
    prompt = tiny_video_prompt(model.config)
    features = torch.randn(10, 81, 32)

    def output() -> torch.Tensor:
        rows, mask = model.embed_batch([prompt], [model.pack(features, range(10))])
        return model.logits(model.decode(rows, mask))

    plain = output()
    for axis in Axis:
        for side in ("input", "output"):
            parametrize.register_parametrization(model.table(axis, side), "weight", Spread())
    spread = output()
    torch.testing.assert_close(spread, plain)
    # One logit or one token: without the parametrization only its own row would have a gradient.
    hidden = torch.randn(32)
    model.zero_grad()
    model.logits(hidden)[model.config.coordinates.offset(Axis.HEIGHT) + 5].backward()
    gradient = model.table(Axis.HEIGHT, "output").parametrizations.weight.original.grad
    assert gradient.abs().sum(-1).nonzero().flatten().tolist() == [4, 5]
    model.zero_grad()
    model.embed_tokens(torch.tensor([model.config.coordinates.ids(Axis.WIDTH)[7]])).sum().backward()
    gradient = model.table(Axis.WIDTH, "input").parametrizations.weight.original.grad
    assert gradient.abs().sum(-1).nonzero().flatten().tolist() == [6, 7]
