"""The training objective, compared with cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
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
from llava_st_ros.coordinates import Axis
from llava_st_ros.model.lape import CoordinateTable
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.records import Answer, Task
from llava_st_ros.text.answer_format import format_answer
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import make_question
from llava_st_ros.training.loop.optimizers import OptimizerConfig, make_optimizers
from llava_st_ros.training.objective import (
    COORDINATE_TABLES,
    Targets,
    coordinate_tables,
    propagate_to_neighbors,
    soft_cross_entropy,
    stop_propagation,
    two_hot,
    two_hot_targets,
)
from support.tiny_model import tiny_config, tiny_model, tiny_tokenizer, tiny_video_prompt


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


def test_two_hot_label_is_over_the_neighboring_rows() -> None:
    low, high, upper = two_hot(torch.tensor([0.0, 0.3, 0.5, 1.0, 1.7, -2.0]), 5)
    assert low.tolist() == [0, 1, 2, 4, 4, 0]
    assert high.tolist() == [0, 2, 2, 4, 4, 0]
    assert torch.allclose(upper, torch.tensor([0.0, 0.2, 0.0, 0.0, 0.0, 0.0]), atol=1e-6)


def test_targets_are_in_the_table_of_their_axis() -> None:
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


def dense(targets: Targets, vocabulary: int) -> torch.Tensor:
    """The labels as in the published code: dense, over the complete vocabulary."""
    rows = torch.zeros(len(targets.ids), vocabulary)
    return rows.scatter_add(1, targets.ids, targets.weights)


def test_labels_over_the_extended_vocabulary_by_hand() -> None:
    geometry = config()  # rows: text 0..29, 10 times, 5 heights, 5 widths
    nan = float("nan")
    ids = torch.tensor([29, 30, 39, 34, 42, 44, 47])
    values = torch.tensor([nan, 0.0, 1.0, 0.5, 0.55, 0.9, 0.5])
    labels = dense(two_hot_targets(ids, values, geometry), geometry.vocabulary)
    expected = torch.zeros(7, 50)
    expected[0, 29] = 1.0
    expected[1, 30] = 1.0
    expected[2, 39] = 1.0
    expected[3, 34] = expected[3, 35] = 0.5  # 0.5 * 9 = 4.5
    expected[4, 42], expected[4, 43] = 0.8, 0.2  # 0.55 * 4 = 2.2
    expected[5, 43], expected[5, 44] = 0.4, 0.6  # 0.9 * 4 = 3.6
    expected[6, 47] = 1.0  # 0.5 * 4 = 2: a single row
    assert torch.allclose(labels, expected, atol=1e-5)


def test_target_of_a_token_without_a_coordinate_is_its_id() -> None:
    """Also for a text token with a value and a coordinate token without one."""
    targets = two_hot_targets(torch.tensor([3, 36]), torch.tensor([0.7, float("nan")]), config())
    labels = dense(targets, 50)
    assert labels[0, 3] == 1.0 and labels[1, 36] == 1.0
    assert labels.sum() == 2.0


def test_text_and_coordinates_share_one_softmax() -> None:
    geometry = config()
    logits = torch.zeros(3, 50)
    logits[0, 7] = math.log(3.0)  # text: 3 of 52
    logits[1, 33], logits[1, 34] = math.log(5.0), math.log(2.0)  # time: 5 and 2 of 55
    logits[2, 45], logits[2, 2] = math.log(4.0), math.log(9.0)  # width: 4 and 1 of 61
    values = torch.tensor([float("nan"), 3.25 / 9, 0.05])
    targets = two_hot_targets(torch.tensor([7, 33, 45]), values, geometry)
    losses = soft_cross_entropy(logits, targets)
    expected = [
        -math.log(3 / 52),
        -(0.75 * math.log(5 / 55) + 0.25 * math.log(2 / 55)),
        -(0.8 * math.log(4 / 61) + 0.2 * math.log(1 / 61)),
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def test_loss_and_gradient_equal_torchs_soft_label_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50, requires_grad=True)
    ids = torch.tensor([7, 30, 36, 41, 44, 48])
    values = torch.tensor([float("nan"), 0.02, 0.71, 0.3, 0.99, 0.6])
    targets = two_hot_targets(ids, values, config())
    losses = soft_cross_entropy(logits, targets)
    labels = dense(targets, 50)
    assert torch.allclose(
        losses, nn.functional.cross_entropy(logits, labels, reduction="none"), atol=1e-5
    )
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, logits.detach().softmax(-1) - labels, atol=1e-6)


def test_loss_of_half_precision_logits_is_computed_in_float32() -> None:
    logits = torch.tensor([[0.0, 12.0, -3.0]], dtype=torch.bfloat16)
    targets = Targets(torch.tensor([[1, 1]]), torch.tensor([[1.0, 0.0]]))
    loss = soft_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-12) + math.exp(-15)), rel=0.05)


def test_only_the_answers_are_labels() -> None:
    """Two turns with coordinates in questions and answers."""
    tokenizer = tiny_tokenizer()
    geometry = tiny_config(tokenizer)
    builder = PromptBuilder(tokenizer, geometry)
    tr_question = make_question(Task.TR, "the ball", span=(0.2, 0.7), template=0)
    tvg_question = make_question(Task.TVG, "the box", template=0)
    tr_answer = format_answer(Answer(Task.TR, caption="the blue ball rolls"), geometry.coordinates)
    tvg_answer = format_answer(Answer(Task.TVG, span=(1, 7)), geometry.coordinates)
    labeled = builder.build_labeled([(tr_question, tr_answer), (tvg_question, tvg_answer)])
    ids = np.asarray(labeled.prompt.token_ids)
    assert len(labeled.prompt.temporal_inputs) > 0
    text = tokenizer.decode(ids[labeled.labels_mask].tolist())
    assert text == f"{tr_answer.text}<|im_end|>{tvg_answer.text}<|im_end|>"
    exact = ~np.isnan(labeled.coordinate_values)
    assert not (exact & ~labeled.labels_mask).any()
    assert labeled.coordinate_values[exact].tolist() == pytest.approx([1 / 9, 7 / 9])
    targets = two_hot_targets(
        torch.from_numpy(ids[labeled.labels_mask]),
        torch.from_numpy(labeled.coordinate_values[labeled.labels_mask]),
        geometry,
    )
    times = geometry.language.vocab_size
    rows = {times + row for row in (1, 7)}
    labels = dense(targets, geometry.vocabulary)
    heavy = labels[:, times:].nonzero()
    likely = labels[:, times:] > 0.5
    assert len(heavy) >= 2 and likely.sum() == 2
    found = {times + int(column) for column in likely.nonzero()[:, 1]}
    assert found == rows


class Tables(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        for name in COORDINATE_TABLES:
            setattr(self, name, CoordinateTable(rows, 3))


def test_propagation_keeps_the_value_and_spreads_the_gradient() -> None:
    tables = Tables(4)
    table = tables.temporal_output_embeddings
    before = table.weight.detach().clone()
    propagate_to_neighbors(tables)
    assert torch.equal(table.weight, before)
    table.weight[1].sum().backward()
    gradient = table.parametrizations.weight.original.grad
    # d/dw_i of row 1 is 1 at i = 1 by itself, and 2^-|i - 1| more by the propagation.
    assert torch.allclose(gradient[:, 0], torch.tensor([0.5, 2.0, 0.5, 0.25]))
    stop_propagation(tables)
    assert torch.equal(table.weight, before)
    assert "temporal_output_embeddings.weight" in tables.state_dict()


def spread_over_rows(gradient: torch.Tensor) -> torch.Tensor:
    """(I + R)^T times a gradient [rows, D], summed term by term."""
    spread = gradient.clone()
    for to in range(len(gradient)):
        for source in range(len(gradient)):
            spread[to] += 2.0 ** -abs(to - source) * gradient[source]
    return spread


def every_table_loss(model: LlavaST) -> torch.Tensor:
    """A loss that uses all six tables: positions, inputs in the question, tokens, logits."""
    geometry = model.config
    torch.manual_seed(3)
    features = torch.randn(
        geometry.num_frames, geometry.tokens_per_frame, geometry.language.hidden_size
    )
    prompt = tiny_video_prompt(geometry)
    ids = np.concatenate(
        [
            prompt.token_ids,
            [geometry.coordinates.ids(Axis.TIME)[2], geometry.coordinates.ids(Axis.HEIGHT)[0]],
        ]
    )
    embeddings = model.embed_prompt(
        ids,
        model.pack(features, range(geometry.num_frames)),
        prompt.inputs,
    )
    logits = model.logits(model.decode(embeddings[None]))[0, -3:]
    values = torch.tensor([0.21, 0.52, 0.87])
    answer = torch.tensor([geometry.coordinates.offset(axis) for axis in Axis])
    return soft_cross_entropy(logits, two_hot_targets(answer, values, geometry)).mean()


def test_spread_gradient_of_small_tables_by_hand() -> None:
    """I + R of three rows, written out. The gradient differs by row and column."""
    tables = Tables(3)
    spread = torch.tensor([[2.0, 0.5, 0.25], [0.5, 2.0, 0.5], [0.25, 0.5, 2.0]])
    gradient = torch.tensor([[1.0, 0.0, -2.0], [4.0, 8.0, 0.0], [0.0, 16.0, 1.0]])
    propagate_to_neighbors(tables)
    for table in coordinate_tables(tables):
        (table.weight * gradient).sum().backward()
        original = table.parametrizations.weight.original
        assert torch.equal(original.grad, spread.T @ gradient)
    assert spread.T[0] @ gradient[:, 1] == 8.0  # 0.5 * 8 + 0.25 * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_six_tables_keep_every_bit(dtype: torch.dtype) -> None:
    """In bfloat16 too, where (w + Rw) - Rw would round."""
    model = tiny_model(tiny_config(compat="paper")).to(dtype)
    before = [table.weight.detach().clone() for table in coordinate_tables(model)]
    assert len(before) == 6 and len({t.sum().item() for t in before}) == 6
    propagate_to_neighbors(model)
    for table, weight in zip(coordinate_tables(model), before):
        assert table.weight.dtype == dtype
        assert torch.equal(table.weight, weight)
    stop_propagation(model)
    for table, weight in zip(coordinate_tables(model), before):
        assert torch.equal(table.weight, weight)
    assert set(model.state_dict()) == set(LlavaST(model.config).state_dict())


def test_all_six_tables_spread_their_gradient_in_the_model() -> None:
    plain, spreading = (tiny_model(tiny_config(compat="paper")) for _ in range(2))
    propagate_to_neighbors(spreading)
    losses = [every_table_loss(model) for model in (plain, spreading)]
    assert torch.equal(*losses)  # the forward pass is unchanged
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(coordinate_tables(plain), coordinate_tables(spreading)):
        gradient = ours.weight.grad
        assert gradient is not None and gradient.abs().sum() > 0
        found = theirs.parametrizations.weight.original.grad
        torch.testing.assert_close(found, spread_over_rows(gradient), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found, gradient, atol=1e-4)
    for name in ("model.layers.0.mlp.up_proj", "lm_head"):  # other parameters are not affected
        one, two = (m.get_submodule(name).weight.grad for m in (plain, spreading))
        torch.testing.assert_close(one, two)


def test_optimizers_get_the_spread_gradient_of_each_table_once() -> None:
    model = tiny_model(tiny_config(compat="paper"))
    propagate_to_neighbors(model)
    originals = [t.parametrizations.weight.original for t in coordinate_tables(model)]
    optimizers = make_optimizers(model, OptimizerConfig(rate=0.1, matrix_rate=0.1))
    trained = [
        (type(optimizer), id(p))
        for optimizer in optimizers
        for g in optimizer.param_groups
        for p in g["params"]
    ]
    for original in originals:
        assert trained.count((torch.optim.AdamW, id(original))) == 1
        assert trained.count((torch.optim.Muon, id(original))) == 0
    before = [t.weight.detach().clone() for t in coordinate_tables(model)]
    sgd = torch.optim.SGD(originals, lr=0.5)
    # The loss uses row 2 of each table only; other rows move by their distance to it.
    sum(t.weight[2].sum() for t in coordinate_tables(model)).backward()
    sgd.step()
    for table, weight in zip(coordinate_tables(model), before):
        near = 2.0 ** -(torch.arange(len(weight)) - 2.0).abs()
        near[2] += 1
        torch.testing.assert_close(weight - table.weight, (0.5 * near)[:, None].expand_as(weight))
