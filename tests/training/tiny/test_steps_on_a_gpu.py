"""Every kind of step as on a GPU: with joined batches, and with no tensor left on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.loop import loop
from llava_st_ros.training.loop.batches import to_device
from llava_st_ros.training.loop.gradients import StepResult, compute_gradients
from llava_st_ros.training.loop.loop import LoopConfig
from llava_st_ros.training.loop.losses import LossTerms
from llava_st_ros.training.loop.optimizers import make_optimizers
from llava_st_ros.training.objective import propagate_to_neighbors, stop_propagation
from llava_st_ros.training.tiny import pipeline
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes
from llava_st_ros.training.tiny.dense_alignment import DenseBatches, DenseHeads, DenseStep
from llava_st_ros.training.tiny.event_alignment import EventHeads
from llava_st_ros.training.tiny.packer_alignment import PackerBatches, PackerHeads, PackerStep
from llava_st_ros.training.tiny.stages import (
    ConversationBatches,
    ConversationStage,
    ConversationStep,
    VisualData,
)
from llava_st_ros.training.tiny.vision_features import (
    compute_features,
    features_file,
    open_features,
)
from support.other_device import OTHER, OtherTensor, other_device, to_other_device
from support.tiny_run import CLIPS, FRAMES, SETTINGS, SIZE

pytestmark = [pytest.mark.slow, pytest.mark.renderer]

GROW = 3
BatchesOf = Callable[[int], Callable[[int], Any]]  # by growth


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, BatchesOf]]:
    """The step of each kind, and its batches by growth."""
    folder = tmp_path_factory.mktemp("clips")
    list(render_shards(folder, "train", CLIPS, num_frames=FRAMES, size=SIZE, workers=1))
    store = ClipStore(folder)
    tokenizer = pipeline.learn_tokenizer(SETTINGS["model"])
    config = pipeline.model_config(SETTINGS["model"], tokenizer)
    torch.manual_seed(0)
    model = LlavaST(config)
    path = features_file(folder, "features", model, store)
    compute_features(model, store, path)
    features = open_features(path)
    vocabulary = pipeline.OBJECT_VOCABULARY
    encoder = ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(2, 60))
    stage = ConversationStage(
        2, 0.5, 2, 60, {"REC": 1, "STVG": 1}, attention_weight=1.0, event_weight=1.0
    )
    heads = EventHeads(config)
    nn.init.normal_(heads.labels.weight)  # zero weights give equal losses for any input
    return {
        "dense": (
            DenseStep(model, DenseHeads(config, vocabulary, tokenizer.encode)),
            lambda grow: DenseBatches(store, config, vocabulary, 2, 7, grow=grow),
        ),
        "packers": (
            PackerStep(model, PackerHeads(config, tokenizer.encode)),
            lambda grow: PackerBatches(store, features, config, 2, 7, grow=grow),
        ),
        "conversations": (
            ConversationStep(model, heads, stage),
            lambda grow: ConversationBatches(
                VisualData(store, features), None, encoder, stage, 7, grow=grow
            ),
        ),
    }


def sums(terms: LossTerms) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([term.numerator.double(), term.denominator.double()]).detach()
        for name, term in terms.items()
    }


@pytest.mark.parametrize("kind", ["dense", "packers", "conversations"])
def test_grown_batch_has_the_sum_of_the_small_batches_losses(
    steps: dict[str, tuple[nn.Module, BatchesOf]], kind: str
) -> None:
    step, batches_of = steps[kind]
    small, grown = batches_of(1), batches_of(GROW)
    for number in range(2):
        joined = grown.draws.batches(number)
        parts = [small(batch) for batch in joined]
        whole = grown(number)
        assert whole.sources == tuple(source for part in parts for source in part.sources)
        expected: dict[str, torch.Tensor] = {}
        for part in parts:
            for name, value in sums(step(part)).items():
                expected[name] = expected.get(name, torch.zeros(2)) + value
        found = sums(step(whole))
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)
        assert any(value[1] > 0 for value in found.values())


@pytest.mark.parametrize("kind", ["dense", "packers", "conversations"])
def test_gradients_on_another_device_are_those_of_the_cpu(
    steps: dict[str, tuple[nn.Module, BatchesOf]], kind: str
) -> None:
    step, batches_of = copy.deepcopy(steps[kind][0]), steps[kind][1]
    accelerator = loop.make_accelerator("cpu")

    def take_steps() -> tuple[list[StepResult], dict[str, torch.Tensor]]:
        """The results of both modalities, and the parameters after the optimizers' steps."""
        propagate_to_neighbors(step.model)
        optimizers = make_optimizers(step, LoopConfig(steps=2, rate=0.01, matrix_rate=0.01))
        device = next(step.parameters()).device
        results = []
        for number in range(2):
            batch = to_device(batches_of(2)(number), device)
            results.append(
                compute_gradients(step, [batch], 1, 1.0, accelerator, lambda: 0.5, lambda: False)
            )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        stop_propagation(step.model)
        return results, {name: value.detach().cpu() for name, value in step.named_parameters()}

    before = copy.deepcopy(step.state_dict())
    expected, weights = take_steps()
    step.load_state_dict(before)
    with other_device():
        to_other_device(step)
        found, weights_there = take_steps()
    for there, here in zip(found, expected, strict=True):
        assert there.metrics == pytest.approx(here.metrics, rel=1e-4)
        assert there.minutes == 0.5 and there.samples == here.samples == 4
    assert weights_there.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(weights_there[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_other_device_rejects_tensors_of_both() -> None:
    layer = nn.Linear(3, 2)
    with other_device():
        to_other_device(layer)
        there = OtherTensor(torch.ones(4, 3))
        assert layer(there).device == OTHER
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            layer(torch.ones(4, 3))
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there + torch.ones(3)
        assert (there + torch.tensor(1.0)).cpu().tolist() == [[2.0] * 3] * 4
