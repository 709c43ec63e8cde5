"""Export of a narrow model with the published 7B's layout.

Covers what llava-st-tiny does not have: shards with an index, unused tensors, Qwen2's tokenizer
files, a grid of 27, seven query heads per key head, external data; and an even temporal region
without a tokenizer. benchmarks/export_7b_layout.py does the same at the published widths.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.published_layout import write_published_layout
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.onnxruntime import OnnxBackend
from llava_st_ros.config import PackerConfig
from llava_st_ros.engine.manifest import check_files, read_manifest
from llava_st_ros.errors import CheckpointError, EngineError
from llava_st_ros.export import onnx_export
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint, verify
from llava_st_ros.export.inspection import inspect_graph
from llava_st_ros.export.plan_counts import make_plan
from llava_st_ros.export.target import read_target
from llava_st_ros.grounder import Grounder
from llava_st_ros.model.tensor_files import find_tensors
from llava_st_ros.records import Frame, Query, Task
from support.seven_b import narrow_7b

pytestmark = pytest.mark.slow

SHARD_BYTES, EXTERNAL_BYTES = 6 << 20, 2 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    write_published_layout(folder, narrow_7b(), shard_bytes=SHARD_BYTES)
    return folder


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported with external data, then moved to another folder."""
    made = tmp_path_factory.mktemp("made") / "engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", EXTERNAL_BYTES)
        export_checkpoint(ExportRequest(checkpoint, read_target("cpu"), "float32", made))
    return Path(shutil.move(made, tmp_path_factory.mktemp("robot") / "engine"))


def test_published_files_are_read(checkpoint: Path) -> None:
    tensors = find_tensors(checkpoint)
    assert len(set(tensors.files.values())) > 2
    assert "model.image_newline" in tensors.files
    assert any("encoder.layers.2." in name for name in tensors.files)  # dropped, as the 27th
    assert not (checkpoint / "tokenizer.json").exists()
    backend, tokenizer = load_backend(checkpoint)
    config = backend.describe().model
    assert config == narrow_7b(end_token_ids=config.end_token_ids)
    assert config.end_token_ids[-1] == tokenizer.chat_end == config.special_tokens.im_start - 1
    assert (config.grid, config.slow_side, config.fast_side) == (27, 9, 3)


def test_large_weights_are_external(engine: Path, checkpoint: Path) -> None:
    manifest = read_manifest(engine)
    assert {name for name in manifest.files if name.endswith(".data")} == {
        "vision.data",
        "packer.data",
        "language.data",
    }
    assert (
        max((engine / file).stat().st_size for file in manifest.graphs.values())
        < 2 * EXTERNAL_BYTES
    )
    check_files(engine, manifest, hash_all=True)
    proof, violations = verify(engine, checkpoint)
    assert violations == [] and proof.equal_ids == 1.0
    assert proof.as_dict() == dict(manifest.proof)


def test_plan_matches_the_exported_weights(engine: Path) -> None:
    plan = make_plan(open_engine(engine, "onnxruntime").config, "float32")
    for name, size in plan.weights.items():
        assert size == pytest.approx(inspect_graph(engine / f"{name}.onnx")["weights"], rel=5e-3)
        assert size == pytest.approx((engine / f"{name}.data").stat().st_size, rel=5e-3)


def test_engine_gives_the_checkpoints_answers(engine: Path, checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 30, 40, 3), np.uint8)
    answers = []
    for folder in (checkpoint, engine):
        grounder = Grounder(*load_backend(folder))
        for number, image in enumerate(images):
            grounder.push(Frame(image, number * 600_000_000))
        answers.append(
            [
                grounder.ask(Query("q", "the red ball", task)).answer
                for task in (Task.STVG, Task.REC)
            ]
        )
    assert answers[0] == answers[1]
    assert not any(answer.problems for answer in answers[1])


@pytest.mark.parametrize("change", ["truncated", "missing", "changed"])
def test_damaged_external_data_is_rejected(engine: Path, tmp_path: Path, change: str) -> None:
    copy = Path(shutil.copytree(engine, tmp_path / "copy"))
    data = copy / "packer.data"
    content = data.read_bytes()
    data.unlink()
    if change == "truncated":
        data.write_bytes(content[:-1])
    elif change == "changed":
        data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(EngineError, match=r"packer\.data") as error:
        load_backend(copy)
    assert "\n" not in str(error.value)


def test_even_temporal_region_without_a_tokenizer(tmp_path: Path) -> None:
    narrow = narrow_7b()
    config = narrow_7b(
        vision=replace(narrow.vision, num_layers=1),
        language=replace(narrow.language, num_hidden_layers=1),
        packer=PackerConfig(embed_dim=128, temporal_region=4),
        num_frames=8,
        compat="paper",
    )
    folder, engine = tmp_path / "checkpoint", tmp_path / "engine"
    write_published_layout(folder, config, shard_bytes=SHARD_BYTES, tokenizer=False)
    proof = export_checkpoint(ExportRequest(folder, read_target("cpu"), "float32", engine))
    assert proof.equal_ids == 1.0
    opened = open_engine(engine, "onnxruntime")
    assert opened.config == config and opened.tokenizer is None
    assert OnnxBackend(opened).describe().model == config
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_backend(engine)
