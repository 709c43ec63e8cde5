"""What decides whether an engine is accepted: its answers, their bounds, and how both are shown."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.default_model import default_checkpoint
from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.cli.__main__ import main
from llava_st_ros.config import GrounderConfig
from llava_st_ros.engine.manifest import describe_files, read_manifest
from llava_st_ros.errors import ConfigError, EngineError
from llava_st_ros.export import target
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint, verify
from llava_st_ros.export.target import Bounds, read_target, target_names
from llava_st_ros.export.validate import measure, reference_clips
from llava_st_ros.export.validate.agreement import Agreement, RecordedAnswer, compare_answers
from llava_st_ros.export.validate.proof import Difference, Proof, check_bounds
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import Box, Frame
from llava_st_ros.text.tokenizer import Tokenizer

GOOD = Agreement(20, 484, 0.0, 1.0, 0.93, 0.45)
PROOF = Proof({"vision": Difference(0.3, 0.1)}, 0.04, 0.0, GOOD)


def recorded(ids: tuple[int, ...], coordinates: tuple[int, ...], **boxes: Box) -> RecordedAnswer:
    tube = {int(slot.removeprefix("slot")): box for slot, box in boxes.items()}
    return RecordedAnswer(ids, tube, coordinates)


def test_coordinates_and_tubes_are_compared() -> None:
    whole, half = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    reference = [
        recorded((1, 2), (10, 20, 30, 40), slot0=whole, slot1=whole),
        recorded((3,), (50,), slot0=whole),
        recorded((4,), ()),
    ]
    engine = [
        recorded((1, 9), (10, 20, 31, 47), slot0=half, slot1=half),
        recorded((3,), (50,)),
        recorded((4,), ()),
    ]
    agreement = compare_answers(reference, engine)
    assert (agreement.questions, agreement.coordinates, agreement.median_bins) == (3, 5, 0.0)
    assert agreement.p99_bins == pytest.approx(np.percentile([0, 0, 1, 7, 0], 99))
    assert agreement.tube_iou == pytest.approx((0.5 + 0.0 + 1.0) / 3)  # two empty tubes are equal
    assert agreement.equal == pytest.approx(2 / 3)
    assert np.isnan(compare_answers(reference[2:], engine[2:]).p99_bins)  # which no bound accepts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"median_bins": 1.0},
            "median error of 484 coordinates, bins: 1.0 (accepted: at most 0.5)",
        ),
        ({"p99_bins": 9.0}, "99th percentile of the coordinates' errors, bins: 9.0"),
        ({"p99_bins": float("nan")}, "bins: nan (accepted: at most 2)"),
        (
            {"tube_iou": 0.5},
            "IoU of the tubes of 20 answers with the reference's: 0.500 (accepted: ",
        ),
        ({"equal": 0.0}, "equal answers: 0% (accepted: at least 10%)"),
    ],
)
def test_answers_decide_whether_int8_is_accepted(change: dict[str, float], message: str) -> None:
    bounds = read_target("cpu").bounds("int8")
    check_bounds(PROOF, bounds)
    spoiled = dataclasses.replace(PROOF, answers=dataclasses.replace(GOOD, **change))
    with pytest.raises(EngineError) as error:
        check_bounds(spoiled, bounds, kept="engine is unchanged")
    text = str(error.value)
    assert message in text and "engine is unchanged" in text and "\n" not in text
    assert error.value.code == 2


def test_every_target_bounds_answers() -> None:
    for name in target_names():
        for precision, bounds in read_target(name).precisions.items():
            assert bounds.p99_bins <= 4 and bounds.tube_iou >= 0.8, (name, precision)
            assert bounds.equal_answers > 0, (name, precision)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("{tube_uoi: 0.5}", r"mine\.yaml: int8 has the bound 'tube_uoi'"),
        ("{p99_bins: two}", r"mine\.yaml: the bound p99_bins of int8 is 'two', no number"),
        ("{p99_bins: true}", "is True, no number"),
    ],
)
def test_wrong_bounds_in_a_target_are_named(
    bounds: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "FOLDER", tmp_path)
    text = f"backend: onnxruntime\ndevice: cpu\nprecisions: {{int8: {bounds}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_target("mine")
    (tmp_path / "mine.yaml").write_text(text.replace(bounds, "{p99_bins: 3}"))
    changed = read_target("mine").bounds("int8")
    assert changed.p99_bins == 3 and changed.tube_iou == 0.85  # the default


def test_proof_is_read_from_a_manifest() -> None:
    values = json.loads(json.dumps(PROOF.as_dict()))
    assert Proof.from_dict(values) == PROOF
    del values["answers"]  # as exported by an earlier version
    earlier = Proof.from_dict(values)
    assert earlier.answers is None and "not compared" in earlier.summary_lines(Bounds())[-1]
    for wrong in ({}, {**values, "graphs": []}, {**values, "answers": {"bins": 1}}):
        with pytest.raises(EngineError, match="the proof in the manifest is of another version"):
            Proof.from_dict(wrong)


def test_numbers_have_readable_names_and_bounds() -> None:
    lines = PROOF.summary_lines(read_target("cpu").bounds("int8"))
    assert "equal continuations of random prompts: 0% (any is accepted)" in lines
    assert lines[0].startswith("vision graph, largest difference in standard deviations")
    for name in ("p99_bins", "tube_iou", "equal_ids", "{"):
        assert name not in "".join(lines)


def test_reference_clips_are_the_same_everywhere(tmp_path: Path) -> None:
    config = read_config(read_checkpoint_json(default_checkpoint() / "config.json"), {})
    clips, again = (list(reference_clips.reference_clips(config)) for _ in range(2))
    assert len(clips) == reference_clips.CLIPS
    for clip, other in zip(clips, again):
        assert clip.queries == other.queries and len(clip.queries) == 5
        np.testing.assert_array_equal(clip.frames, other.frames)
        assert clip.frames.shape == (config.num_frames, config.image_size, config.image_size, 3)
        assert (clip.frames[0] != clip.frames[-1]).any()


@pytest.mark.slow
def test_verify_and_inspect_print_the_stored_proof(
    random_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in ("verify", "inspect"):
        assert main(["export", action, str(random_engine)]) == 0
        text = capsys.readouterr().out
        assert "IoU of the tubes of 20 answers with the reference's: 1.000 (accepted: " in text
        assert "equal_ids" not in text and "largest difference in standard deviations" in text


class OtherClips:
    """Calibrates on clips like the reference clips, but others."""

    def __call__(self, backend: Backend, tokenizer: Tokenizer | None) -> None:
        assert tokenizer is not None
        grounder = Grounder(backend, tokenizer, GrounderConfig())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference_clips, "SEED", 7)
            clips = list(reference_clips.reference_clips(backend.describe().model))
        for clip in clips:
            grounder.reset()
            for index, image in enumerate(clip.frames):
                grounder.push(Frame(image, (index + 1) * 300_000_000))
            for query in clip.queries:
                grounder.ask(query)


@pytest.mark.slow
def test_int8_of_the_packaged_model_is_accepted_and_a_spoiled_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_clips, "CLIPS", 2)
    monkeypatch.setattr(measure, "_run_checkpoint", cache(measure._run_checkpoint))
    checkpoint, out = default_checkpoint(), tmp_path / "int8"
    proof = export_checkpoint(
        ExportRequest(checkpoint, read_target("cpu"), "int8", out, calibration=OtherClips())
    )
    assert proof.answers is not None and proof.answers.coordinates > 100
    assert Proof.from_dict(read_manifest(out).proof) == proof

    # One scale of the decoder's weights, wrong by a factor of four.
    model = onnx.load(out / "language.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [
        tensors[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors
    ]
    scale = scales[len(scales) // 2]
    scale.CopyFrom(numpy_helper.from_array(4 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, out / "language.onnx")
    dataclasses.replace(read_manifest(out), files=describe_files(out)).write(out)
    spoiled, violations = verify(out, checkpoint)
    assert spoiled.answers is not None and spoiled.answers.tube_iou < proof.answers.tube_iou - 0.05
    assert any("IoU of the tubes" in line for line in violations), violations
