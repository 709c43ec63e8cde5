"""A run that starts from a checkpoint and trains on windows of videos."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_st_ros.calibration import (
    Calibration,
    MatchCalibration,
    ModalityCalibration,
    QueryCalibration,
)
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.model.checkpoint import load_checkpoint
from llava_st_ros.simulation.clip_store import ClipStore
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.calibration.checkpoint_folder import write_calibrated
from llava_st_ros.training.loop.errors import TrainingInterrupted
from llava_st_ros.training.loop.time_budget import TimeBudget
from llava_st_ros.training.tiny import pipeline
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes
from llava_st_ros.training.tiny.event_alignment import EventHeads
from llava_st_ros.training.tiny.event_stage import EventBatch, EventBatches, EventStep
from llava_st_ros.training.tiny.settings import VIDEOS_FOLDER
from llava_st_ros.training.tiny.stages import (
    ConversationBatches,
    ConversationStage,
    ConversationStep,
    VisualData,
)
from support.random_videos import store_random_videos
from support.tiny_run import CLIPS, FRAMES, QUESTIONS, SETTINGS, SIZE

pytestmark = pytest.mark.slow

VIDEO_FRAMES = 40
STREAMING = {
    **QUESTIONS,
    "steps": 3,
    "rate": 0.01,
    "video": 1.0,
    "event_weight": 1.0,
    "window_share": 1.0,
    "pair_weight": 1.0,
    "mix": {"STVG": 1, "TVG": 1, "SVG": 1, "tube": 1},
}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    store_random_videos(folder, CLIPS, FRAMES, SIZE)
    store_random_videos(folder / VIDEOS_FOLDER, 2, VIDEO_FRAMES, SIZE)
    return folder


def settings(**streaming: Any) -> dict[str, Any]:
    values = copy.deepcopy(SETTINGS)
    values["data"] |= {"videos": 2, "video_frames": VIDEO_FRAMES}
    values["stages"] = {"streaming": {**STREAMING, **streaming}}
    return values


def train(
    folder: Path, data: Path, values: dict[str, Any], initial: Path | None = None, **more: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline.train(config, data, folder / "work", folder / "out", initial=initial, **more)
    return folder / "work"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A checkpoint of one stage on frames."""
    torch.compiler.set_stance("force_eager")
    values = copy.deepcopy(SETTINGS)
    values["stages"] = {"dense_alignment": SETTINGS["stages"]["dense_alignment"]}
    folder = tmp_path_factory.mktemp("first")
    train(folder, data, values)
    return folder / "out"


def test_run_starts_from_a_checkpoint(tmp_path: Path, data: Path, checkpoint: Path) -> None:
    work = train(tmp_path, data, settings(rate=0.0, steps=1), checkpoint)
    weights = load_file(work / "streaming.safetensors")
    for name, value in load_checkpoint(checkpoint).model.state_dict().items():
        assert torch.equal(weights[name], value), name
    (line,) = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert line["video_match"] > 0 and line["video_attention_loss"] > 0


def test_run_can_start_from_a_calibrated_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    """As the shipped one is: the calibration is not part of the model's geometry."""
    calibrated = tmp_path / "calibrated"
    video = ModalityCalibration(MatchCalibration(0.5, -1.0))
    calibration = Calibration(standing=QueryCalibration(video=video))
    write_calibrated(checkpoint, calibrated, calibration)
    assert load_checkpoint(calibrated).config.calibration == calibration
    tokenizer = pipeline.learn_tokenizer(SETTINGS["model"])
    config = pipeline.model_config(SETTINGS["model"], tokenizer)
    weights = pipeline.load_initial(calibrated, config, tokenizer)
    expected = load_checkpoint(checkpoint).model.state_dict()
    assert pipeline.weights_digest(weights) == pipeline.weights_digest(expected)


def test_interrupted_run_resumes_from_its_state(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    """With the checkpoint given again, and to the weights of a run that was not interrupted."""
    complete = train(tmp_path / "complete", data, settings(), checkpoint)
    budget = TimeBudget()
    checks = iter([False] * 3)  # then the time is used up
    used_up = property(lambda self: next(checks, True))
    budget.__class__ = type("Limited", (TimeBudget,), {"is_used_up": used_up})
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "cut", data, settings(), checkpoint, budget=budget)
    assert not (tmp_path / "cut" / "work" / "streaming.safetensors").exists()
    with pytest.raises(ConfigError, match=r"was started with other settings \(initial\)"):
        train(tmp_path / "cut", data, settings())
    resumed = train(tmp_path / "cut", data, settings(), checkpoint)
    expected = load_file(complete / "streaming.safetensors")
    for name, value in load_file(resumed / "streaming.safetensors").items():
        assert torch.equal(value, expected[name]), name


def test_checkpoint_of_another_model_is_rejected(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    values = settings()
    values["model"]["text_vocabulary"] += 8
    with pytest.raises(ConfigError, match=r"is a checkpoint of another model \(.*tokenizer\)"):
        train(tmp_path, data, values, checkpoint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window_share": 1.5}, "window_share is 1.5; expected a value in"),
        ({"window_no_match_share": 1.0}, "window_no_match_share is 1; expected a share below 1"),
        ({"window_no_match_kinds": {"x": 1}}, "has x; expected some of other_time"),
        ({"window_no_match_kinds": {"nothing": 0}}, "is empty or has a negative weight"),
        ({"pair_weight": -1.0}, "pair_weight is -1.0; expected at least 0"),
        ({"match_weight": -1.0}, "match_weight is -1.0; expected at least 0"),
    ],
)
def test_invalid_window_settings_are_rejected(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pipeline.read_stage("streaming", settings(**change)["stages"]["streaming"])


def test_windows_without_videos_are_rejected(tmp_path: Path, data: Path) -> None:
    values = settings()
    del values["data"]["videos"]
    with pytest.raises(ConfigError, match="the training YAML has no videos; set data: videos"):
        train(tmp_path, data, values)


@pytest.mark.parametrize("change", [{"videos": 3}, {"video_frames": 50}])
def test_other_videos_than_the_yamls_are_rejected(
    tmp_path: Path, data: Path, change: dict[str, int]
) -> None:
    values = settings()
    values["data"] |= change
    with pytest.raises(DataError, match=r"has 2 videos of 40 frames; the training YAML asks for"):
        train(tmp_path, data, values)


def test_shares_of_windows_and_of_questions_without_a_match(data: Path) -> None:
    model = SETTINGS["model"]
    tokenizer = pipeline.learn_tokenizer(model)
    config = pipeline.model_config(model, tokenizer)
    encoder = ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(2, 200))
    stores = ClipStore(data), ClipStore(data / VIDEOS_FOLDER)
    clips, videos = (
        VisualData(store, np.zeros((len(store), len(store.frames(0)), 64, 24), np.float16))
        for store in stores
    )
    values = {k: v for k, v in STREAMING.items() if k not in ("kind", "steps", "rate")}
    stage = ConversationStage(**{**values, "batch": 40, "window_share": 0.6})
    batch = ConversationBatches(clips, videos, encoder, stage, 0)(0)
    windows = [source for source in batch.sources if "frame" in source]
    assert 14 <= len(windows) <= 34
    assert batch.features.shape == (40, FRAMES, 64, 24)
    again = ConversationBatches(clips, videos, encoder, stage, 0)(0)
    assert torch.equal(batch.conversations.ids, again.conversations.ids)


EVENTS = {"kind": "event_alignment", "steps": 2, "rate": 0.01, "batch": 2, "window_share": 0.5}


def test_event_stage_trains_packers_and_lower_layers_and_hands_its_heads_on(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    values = settings(rate=0.0, steps=1)
    values["stages"] = {"events": EVENTS, **values["stages"]}
    work = train(tmp_path, data, values, checkpoint)
    before, after = (
        load_checkpoint(checkpoint).model.state_dict(),
        load_file(work / "events.safetensors"),
    )
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    # Of two layers, the first is the lower half.
    parts = {".".join(name.split(".")[: 3 if "layers" in name else 2]) for name in changed}
    assert parts == {"model.vision_resampler", "model.layers.0"}
    trained = load_file(work / "events.heads.safetensors")
    assert trained["labels.weight"].abs().max() > 0
    kept = load_file(work / "streaming.heads.safetensors")  # of a stage whose rate is 0
    assert all(torch.equal(kept[name], value) for name, value in trained.items())
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert lines[0]["stage"] == "events" and lines[0]["event_loss"] > 0


def test_event_stage_has_the_event_loss_of_conversations(data: Path, checkpoint: Path) -> None:
    """What follows the fast tokens, and the questions, do not affect them."""
    loaded = load_checkpoint(checkpoint)
    model, config = loaded.model, loaded.config
    assert loaded.tokenizer is not None
    builder = PromptBuilder(loaded.tokenizer, config)
    _, stage = pipeline.read_stage("streaming", {**STREAMING, "window_share": 0.0})
    assert isinstance(stage, ConversationStage)
    store = ClipStore(data)
    rng = np.random.default_rng(3)
    shape = len(store), FRAMES, config.tokens_per_frame, config.vision.hidden_size
    clips = VisualData(store, rng.normal(size=shape).astype(np.float16))
    encoder = ConversationEncoder(builder, config, Lanes(stage.lanes, stage.lane_tokens))
    batch = ConversationBatches(clips, None, encoder, stage, 5)(0)
    heads = EventHeads(config)
    torch.nn.init.normal_(heads.labels.weight)
    assert batch.labels is not None
    with torch.no_grad():
        expected = ConversationStep(model, heads, stage)(batch)["event_loss"]
        alone = EventBatch(batch.features, batch.labels, batch.sources)
        found = EventStep(model, heads, builder)(alone)["event_loss"]
    torch.testing.assert_close(found.numerator, expected.numerator, rtol=1e-4, atol=1e-4)
    assert found.denominator == expected.denominator > 0


def test_event_batches_are_clips_and_windows_by_their_share(data: Path, checkpoint: Path) -> None:
    config = load_checkpoint(checkpoint).config
    rng = np.random.default_rng(3)

    def visual(store: ClipStore, frames: int) -> VisualData:
        shape = len(store), frames, config.tokens_per_frame, config.vision.hidden_size
        return VisualData(store, rng.normal(size=shape).astype(np.float16))

    clips = visual(ClipStore(data), FRAMES)
    videos = visual(ClipStore(data / VIDEOS_FOLDER), VIDEO_FRAMES)

    def sources(share: float) -> list[str]:
        batches = EventBatches(clips, videos, config, share, 4, 7)
        return [source for step in range(10) for source in batches(step).sources]

    assert not any(" frame " in source for source in sources(0.0))
    assert all(" frame " in source for source in sources(1.0))
    assert 8 <= sum(" frame " in source for source in sources(0.5)) <= 32
    first, again = (EventBatches(clips, videos, config, 0.5, 4, 7)(3) for _ in range(2))
    assert torch.equal(first.features, again.features) and torch.equal(first.labels, again.labels)
    assert first.features.shape[:2] == (4, FRAMES)


@pytest.mark.parametrize(
    ("change", "model", "message"),
    [
        ({"window_share": 1.5}, {}, "window_share is 1.5"),
        ({}, {"compat": "released"}, "compat released lack"),
    ],
)
def test_wrong_event_stages_are_rejected(
    tmp_path: Path, data: Path, change: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    values = settings()
    values["model"] |= model
    values["stages"] = {"events": {**EVENTS, **change}}
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, data, values)
