"""Training from rendered clips and a YAML to a checkpoint, with every kind of stage."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.model.checkpoint import load_checkpoint
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.simulator import SimulatedEvent
from llava_st_ros.text.answer_format import NO_MATCH_TEXT
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.loop import loop
from llava_st_ros.training.tiny import pipeline
from llava_st_ros.training.tiny.conversations import ConversationEncoder, Lanes
from llava_st_ros.training.tiny.stages import (
    ConversationBatches,
    ConversationStage,
    VisualData,
)
from support.rolling_clip import rolling_clip
from support.tiny_run import CLIPS, FRAMES, SETTINGS, SIZE

pytestmark = pytest.mark.slow


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


def train(folder: Path, data: Path, settings: dict[str, Any] = SETTINGS) -> Path:
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    pipeline.train(config, data, folder / "work", folder / "out")
    return folder / "work"


def changed(before: Path, after: Path) -> set[str]:
    """The parts of the model whose parameters differ, by the first two words of their names."""
    a, b = load_file(before), load_file(after)
    assert a.keys() == b.keys()
    return {".".join(name.split(".")[:2]) for name in a if not torch.equal(a[name], b[name])}


def test_every_stage_trains_its_part_and_the_checkpoint_loads(tmp_path: Path, data: Path) -> None:
    work = train(tmp_path, data)
    dense, pictures, packers, clips = (work / f"{name}.safetensors" for name in SETTINGS["stages"])
    tower, projector, resampler = "vision_tower", "mm_projector", "vision_resampler"
    moved = {part.removeprefix("model.") for part in changed(dense, pictures)}
    assert {projector, "layers", "embed_tokens", "spatial_width_output_embeddings"} <= moved
    assert not {tower, resampler} & moved  # frozen; not used for single frames
    assert changed(pictures, packers) == {f"model.{resampler}"}
    moved = {part.removeprefix("model.") for part in changed(packers, clips)}
    assert {projector, resampler, "layers", "temporal_output_embeddings"} <= moved
    assert tower not in moved

    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.tokenizer is not None
    last = load_file(clips)
    for name, value in checkpoint.model.state_dict().items():
        assert torch.allclose(value.float(), last[name], atol=1e-3), name
    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log] == list(SETTINGS["stages"])
    assert (
        log[1]["image_attention_share"] > 0
        and log[3]["video_attention_share"] > 0
        and log[3]["event_loss"] > 0
    )


def test_stage_trains_with_fast_matmul(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, run = [], loop.run

    def recorded(*args: Any) -> int:
        seen.append(torch.get_float32_matmul_precision())
        return run(*args)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    monkeypatch.setattr(loop, "run", recorded)
    settings = copy.deepcopy(SETTINGS)
    settings["stages"] = {"dense_alignment": settings["stages"]["dense_alignment"]}
    train(tmp_path, data, settings)
    assert seen == ["medium"]


def test_dense_alignment_without_words_leaves_what_the_decoder_knows(
    tmp_path: Path, data: Path
) -> None:
    settings = copy.deepcopy(SETTINGS)
    dense = {**settings["stages"]["dense_alignment"], "words": False}
    settings["stages"] = {"dense_alignment": dense}
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
    first = train(
        tmp_path / "short", data, {**settings, "stages": {"dense_alignment": {**dense, "steps": 1}}}
    )
    second = train(tmp_path / "long", data, settings)
    name = "dense_alignment.safetensors"
    assert changed(first / name, second / name) == {"model.vision_tower", "model.mm_projector"}


def test_run_resumes_after_its_last_finished_stage(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = copy.deepcopy(SETTINGS)
    del settings["stages"]["packer_alignment"], settings["stages"]["clips"]
    work = train(tmp_path, data, settings)
    first = (work / "dense_alignment.safetensors").read_bytes()
    (work / "pictures.safetensors").unlink()
    capsys.readouterr()
    train(tmp_path, data, settings)
    assert "dense_alignment: done before" in capsys.readouterr().out
    assert (work / "dense_alignment.safetensors").read_bytes() == first
    assert (work / "pictures.safetensors").exists()


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        (
            "clips",
            {"decision_wight": 3},
            "stage clips .*decision_wight.*did you mean decision_weight",
        ),
        ("dense_alignment", {"steps": -1}, "stage dense_alignment: steps is -1"),
        ("dense_alignment", {"steps": "x"}, "stage dense_alignment: steps is 'x'"),
        ("dense_alignment", {"rate": -1.0}, "rate is -1.0; expected at least 0"),
        ("dense_alignment", {"batch": 0}, "stage dense_alignment: batch is 0"),
        ("dense_alignment", {"log_every": 0}, "log_every is 0"),
        ("clips", {"video": 7}, "stage clips: video is 7"),
        ("clips", {"mix": {"NOPE": 1}}, "mix has NOPE; expected some of tube"),
        ("clips", {"mix": {"REC": -1}}, "a negative weight"),
        ("clips", {"tube_frames": [1, 2, 3]}, "tube_frames has 3 values; expected 2"),
        ("dense_alignment", {"mix": {}}, "stage dense_alignment has no setting 'mix'"),
        (
            "clips",
            {"kind": "clips"},
            "^stage clips: kind is 'clips'; "
            "expected one of dense_alignment, packer_alignment, event_alignment, conversations$",
        ),
        (
            "clips",
            {"kind": None},
            "^stage clips: kind is None; "
            "expected one of dense_alignment, packer_alignment, event_alignment, conversations$",
        ),
    ],
)
def test_invalid_setting_is_rejected_before_training(
    tmp_path: Path, data: Path, stage: str, change: dict[str, Any], words: str
) -> None:
    settings = copy.deepcopy(SETTINGS)
    settings["stages"][stage] |= change
    with pytest.raises(ConfigError, match=words):
        train(tmp_path, data, settings)
    assert not (tmp_path / "work").exists()


def test_stage_without_a_kind_is_rejected() -> None:
    values = {name: v for name, v in SETTINGS["stages"]["clips"].items() if name != "kind"}
    words = (
        "^stage x has no kind; expected one of dense_alignment, packer_alignment, event_alignment, "
        "conversations$"
    )
    with pytest.raises(ConfigError, match=words):
        pipeline.read_stage("x", values)


def test_work_folder_is_rejected_under_other_settings(tmp_path: Path, data: Path) -> None:
    settings = copy.deepcopy(SETTINGS)
    settings["stages"] = {"dense_alignment": settings["stages"]["dense_alignment"]}
    train(tmp_path, data, settings)
    other = copy.deepcopy(settings)
    other["model"]["text_vocabulary"] += 8
    with pytest.raises(
        ConfigError, match=r"work was started with other settings \(model, tokenizer\); "
    ):
        train(tmp_path, data, other)
    fewer = tmp_path / "fewer"
    list(render_shards(fewer, "train", 1, num_frames=FRAMES, size=SIZE, workers=1))
    with pytest.raises(ConfigError, match=r"was started with other settings \(clips\); "):
        train(tmp_path, fewer, settings)
    (tmp_path / "work" / "made_from.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"was started with other settings"):
        train(tmp_path, data, settings)


@pytest.fixture(scope="module")
def encoder() -> ConversationEncoder:
    tokenizer = pipeline.learn_tokenizer(SETTINGS["model"])
    config = pipeline.model_config(SETTINGS["model"], tokenizer)
    return ConversationEncoder(PromptBuilder(tokenizer, config), config, Lanes(1, 60))


class Store(list[Any]):
    """Clips that are not on disk."""

    def source(self, index: int) -> str:
        return str(index)


def features(store: Store, encoder: ConversationEncoder) -> np.ndarray:
    """Features that hold the index of their clip, [clips, F, N, 1]."""
    shape = (len(store), FRAMES, encoder.config.tokens_per_frame, 1)
    return np.broadcast_to(np.arange(len(store))[:, None, None, None], shape)


def test_clips_with_a_single_event_are_drawn_by_their_share(encoder: ConversationEncoder) -> None:
    single = rolling_clip()
    pushed = SimulatedEvent(EventKind.PUSHED, 1, None, (0, 1))
    store = Store([single, dataclasses.replace(single, events=(*single.events, pushed))])

    def drawn(share: float) -> float:
        """The fraction of the batch that shows the clip with a single event."""
        stage = ConversationStage(40, 1.0, 1, 60, {"STVG": 1.0}, single_event_share=share)
        batch = ConversationBatches(
            VisualData(store, features(store, encoder)), None, encoder, stage, 0
        )(0)
        return float((batch.features[:, 0, 0, 0] == 0).float().mean())

    assert drawn(0.0) == 0.0
    assert 0.3 < drawn(1.0) < 0.7  # half of all
    assert 0.0 < drawn(0.2) < 0.3  # a sixth


def test_questions_without_a_match_are_drawn_by_their_share(encoder: ConversationEncoder) -> None:
    store = Store([rolling_clip()])
    no_match = pipeline.learn_tokenizer(SETTINGS["model"]).encode(NO_MATCH_TEXT)

    def drawn(share: float) -> float:
        """The fraction of the batch's conversations with a no-match answer."""
        stage = ConversationStage(40, 1.0, 1, 60, {"TVG": 1.0}, no_match_share=share)
        batch = ConversationBatches(
            VisualData(store, features(store, encoder)), None, encoder, stage, 0
        )(0)
        collated = batch.conversations
        rows = [ids[mask].tolist() for ids, mask in zip(collated.ids, collated.answer_mask)]
        return float(np.mean([_contains(row, no_match) for row in rows]))

    assert drawn(0.0) == 0.0
    assert 0.0 < drawn(0.3) < drawn(1.0)


def _contains(row: list[int], part: list[int]) -> bool:
    return any(row[i : i + len(part)] == part for i in range(len(row)))


def test_stage_can_be_limited_to_the_first_clips(tmp_path: Path, data: Path) -> None:
    settings = copy.deepcopy(SETTINGS)
    settings["stages"] = {"dense_alignment": settings["stages"]["dense_alignment"] | {"clips": 1}}
    train(tmp_path, data, settings)
    one = ClipStore(data).first(1)
    assert len(one) == 1 and one.source(0) == "train-000000:0"
    np.testing.assert_array_equal(one[0].frames, ClipStore(data)[0].frames)
    settings["stages"]["dense_alignment"]["clips"] = CLIPS + 1
    (tmp_path / "work" / "dense_alignment.safetensors").unlink()
    with pytest.raises(DataError, match=f" has {CLIPS} clips; expected at least {CLIPS + 1}"):
        train(tmp_path, data, settings)
