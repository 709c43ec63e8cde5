"""A step with several of the recipe's batches has the sum of their losses, for every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.loop.losses import LossTerms
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
