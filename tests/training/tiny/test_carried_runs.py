"""A run that is split over calls and carried between machines gives the result of one call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_st_ros.backends.preprocessing import preprocess
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.model.llava_st import LlavaST
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.training.loop.errors import TrainingInterrupted
from llava_st_ros.training.loop.time_budget import OUT_OF_TIME, TimeBudget
from llava_st_ros.training.tiny import pipeline, vision_features
from llava_st_ros.training.tiny.run_archive import pack, unpack
from llava_st_ros.training.tiny.vision_features import (
    compute_features,
    features_file,
    open_features,
)
from support.tiny_run import CLIPS, FRAMES, SETTINGS, SIZE, Moments

pytestmark = [pytest.mark.slow, pytest.mark.renderer]

STAGES = list(SETTINGS["stages"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    list(render_shards(folder, "train", CLIPS, num_frames=FRAMES, size=SIZE, workers=1))
    return folder


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling takes minutes and does not change results."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path, config: Path) -> Path:
    """The work folder of a run in one call."""
    work = tmp_path_factory.mktemp("uninterrupted")
    with torch.compiler.set_stance("force_eager"):
        pipeline.train(config, data, work, None)
    return work


def log(work: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["minutes"], line["samples_per_second"]
    return lines


@pytest.fixture
def model() -> LlavaST:
    tokenizer = pipeline.learn_tokenizer(SETTINGS["model"])
    torch.manual_seed(0)
    return LlavaST(pipeline.model_config(SETTINGS["model"], tokenizer))


def test_run_carried_after_every_call_gives_the_result_of_one_call(
    tmp_path: Path, data: Path, config: Path, uninterrupted: Path
) -> None:
    """Each call is on another "machine": other folders, other numbers of workers."""
    stops = []
    for call in range(20):
        machine = tmp_path / str(call)
        work = machine / "work"
        (machine / "data").mkdir(parents=True)
        (machine / "data" / "train-000000").symlink_to(data / "train-000000")
        if call:
            unpack(tmp_path / "carried", work)
        try:
            pipeline.train(
                config, machine / "data", work, None, workers=call % 2, budget=Moments(4)
            )
            break
        except TrainingInterrupted as stopped:
            stops.append(stopped)
            pieces = pack(work, STAGES, tmp_path / "carried", 1 << 17)
            assert len(pieces) > 2
    assert {stop.code for stop in stops} == {OUT_OF_TIME}
    stage = "1 minutes are used up: stage clips is saved at step 1 of 2"
    assert stage in {stop.problem for stop in stops}
    last = f"{STAGES[-1]}.safetensors"
    expected, found = load_file(uninterrupted / last), load_file(work / last)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert log(work) == log(uninterrupted)


def test_packed_run_has_only_what_resuming_requires(
    tmp_path: Path, data: Path, config: Path
) -> None:
    work = tmp_path / "work"
    with pytest.raises(TrainingInterrupted, match="stage pictures is saved at step 1 of 2"):
        pipeline.train(config, data, work, None, budget=Moments(7))
    pack(work, STAGES, tmp_path / "out")
    unpack(tmp_path / "out", tmp_path / "new")
    files = {str(p.relative_to(tmp_path / "new")) for p in (tmp_path / "new").rglob("*.*")}
    state = "state/pictures-0000001"
    assert files == {
        "dense_alignment.safetensors",
        f"{state}/optimizers.safetensors",
        f"{state}/run.json",
        f"{state}/trained.safetensors",
        "log.jsonl",
        "made_from.json",
    }
    with pytest.raises(ConfigError, match=r"there is a run in .*new; use another work folder"):
        unpack(tmp_path / "out", tmp_path / "new")
    with pytest.raises(ConfigError, match=r"no run in .*none: it has no made_from\.json"):
        pack(tmp_path / "none", STAGES, tmp_path / "out2")


def test_incomplete_pieces_are_rejected(tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "out"
    pieces = pack(uninterrupted, STAGES, folder, 1 << 16)
    assert all(piece.stat().st_size <= 1 << 16 for piece in pieces)
    pack(uninterrupted, STAGES, folder, 1 << 16)  # replaces the pieces
    with pytest.raises(ConfigError, match="has files of something else, which would be lost"):
        pack(uninterrupted, STAGES, uninterrupted)
    damaged = bytearray(pieces[2].read_bytes())
    damaged[7] ^= 1
    original = pieces[2].read_bytes()
    pieces[2].write_bytes(damaged)
    with pytest.raises(DataError, match=r"run\.001 is damaged"):
        unpack(folder, tmp_path / "work")
    pieces[2].write_bytes(original)
    pieces[1].unlink()
    with pytest.raises(DataError, match=r"out has no run\.000; bring all pieces"):
        unpack(folder, tmp_path / "work")
    pieces[0].write_text('{"pieces": []}')
    with pytest.raises(DataError, match=r"run\.json has no pieces"):
        unpack(folder, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_stages_before_a_finished_one_are_not_trained_again(
    tmp_path: Path, data: Path, config: Path, uninterrupted: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(uninterrupted, work)
    for name in STAGES[:-1]:
        (work / f"{name}.safetensors").unlink()
    pipeline.train(config, data, work, tmp_path / "out")
    assert not (work / f"{STAGES[0]}.safetensors").exists()
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(uninterrupted / f"{STAGES[-1]}.safetensors").items():
        assert torch.allclose(found[name].float(), value, atol=1e-3), name


def test_clips_of_another_renderer_are_accepted_and_other_clips_rejected(
    tmp_path: Path,
    data: Path,
    config: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, other = tmp_path / "work", tmp_path / "data"
    shutil.copytree(uninterrupted, work)
    shutil.copytree(data, other)
    path = other / "train-000000" / "clips.json"
    clips = json.loads(path.read_text())
    box = next(box for frame in clips[0]["boxes"] for box in frame if box)
    box[0] += 0.01
    path.write_text(json.dumps(clips))
    pipeline.train(config, other, work, None)
    message = "clips were rendered again: boxes differ, and in 0 of them the objects or events"
    assert message in capsys.readouterr().out
    clips[0]["objects"][0]["color"] += "ish"  # one of three clips
    path.write_text(json.dumps(clips))
    with pytest.raises(ConfigError, match=r"started with other settings \(clips\)"):
        pipeline.train(config, other, work, None)


def test_features_are_those_of_preprocessed_frames(
    tmp_path: Path, data: Path, model: LlavaST, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed in two calls, with a batch for each clip."""
    monkeypatch.setattr(vision_features, "FRAMES_AT_ONCE", FRAMES)
    store = ClipStore(data)
    path = features_file(tmp_path, "vision_features", model, store)
    assert path.name.startswith("vision_features-")
    with pytest.raises(TrainingInterrupted, match="vision features of 1 of 3 clips are saved"):
        compute_features(model, store, path, Moments(1))
    seen = []
    forward = model.vision_features
    monkeypatch.setattr(model, "vision_features", lambda p: seen.append(len(p)) or forward(p))
    compute_features(model, store, path, TimeBudget())
    assert seen == [FRAMES, FRAMES]  # the first clip is not computed again
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found = open_features(path)
    assert found.shape[:2] == (CLIPS, FRAMES) and found.dtype == np.float16
    pixels = torch.from_numpy(np.stack([preprocess(i, SIZE) for i in store.frames(2)]))
    with torch.no_grad():
        expected = forward(pixels).half().numpy()
    np.testing.assert_array_equal(found[2], expected)


def test_features_of_another_tower_are_not_used(tmp_path: Path, data: Path, model: LlavaST) -> None:
    store = ClipStore(data)
    before = features_file(tmp_path, "vision_features", model, store)
    compute_features(model, store, before)
    assert features_file(tmp_path, "vision_features", model, store) == before
    next(model.model.vision_tower.parameters()).data[0] += 1
    after = features_file(tmp_path, "vision_features", model, store)
    assert after != before
    compute_features(model, store, after)
    assert not before.exists() and after.exists()


def test_frames_of_another_size_are_rejected(tmp_path: Path, data: Path, model: LlavaST) -> None:
    class Larger(ClipStore):
        def frames(self, index: int) -> np.ndarray:
            return np.zeros((FRAMES, 60, 60, 3), dtype=np.uint8)

    store = Larger(data)
    with pytest.raises(DataError, match="has frames of 60 pixels; expected 48; render them"):
        compute_features(model, store, features_file(tmp_path, "features", model, store))
