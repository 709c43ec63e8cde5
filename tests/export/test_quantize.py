"""Graphs in int8 and int4: what is quantized and what not, for which runtime, and how well."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_checkpoint
from llava_st_ros.checkpoint_config import read_config, read_json
from llava_st_ros.cli.__main__ import main
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import CheckpointError, ConfigError, EngineError
from llava_st_ros.export import calibration, engine_directory
from llava_st_ros.export import onnx as onnx_files
from llava_st_ros.export import target as export_target
from llava_st_ros.export.calibration import FootageQuestions, SimulatedQuestions, record
from llava_st_ros.export.engine_directory import export_checkpoint, verify
from llava_st_ros.export.graphs.region_attention import decomposed
from llava_st_ros.export.quantize import ONNX_RUNTIME, TENSORRT, quantize_int4, quantize_int8
from llava_st_ros.export.target import Target, read_target
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.operators import unsupported
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.export.validate.accuracy import answer, compare_answers, simulated_clips
from llava_st_ros.export.validate.bisect import bisect, first_beyond

OLDEST = (10, 3)  # TensorRT
WORDS = ("the red ball", "the box moves")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a square that crosses the picture."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (64, 48))
    for step in range(40):
        image = np.full((48, 64, 3), 90, np.uint8)
        image[10:30, step : step + 20] = (20, 40, 220)
        writer.write(image)
    writer.release()
    return path


@pytest.fixture(scope="module")
def feeds(random_engine: Path, video: Path) -> calibration.Feeds:
    return record(random_engine, FootageQuestions([video], WORDS))


@pytest.fixture
def language(random_engine: Path, tmp_path: Path) -> Path:
    """A copy of the language graph."""
    return Path(shutil.copy(random_engine / "language.onnx", tmp_path))


@pytest.fixture(scope="module")
def config(random_engine: Path):
    return read_config(read_json(random_engine / "config.json"), {})


def matrices(path: Path) -> dict[str, int]:
    """The data types of constant matrices by name."""
    return {t.name: t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 2}


def words(path: Path, vocabulary: int) -> list[int]:
    """The data types of the matrices with a row for each word and coordinate."""
    tensors = onnx.load(path).graph.initializer
    return [t.data_type for t in tensors if len(t.dims) == 2 and vocabulary in t.dims]


def test_calls_are_recorded_from_first_to_last(
    feeds: calibration.Feeds, monkeypatch: pytest.MonkeyPatch, random_engine: Path, video: Path
) -> None:
    assert set(feeds) == {"vision", "image", "packer", "language"}
    assert len(feeds["language"]) == calibration.KEPT  # of many more
    lengths = {len(feed["past_key_0"]) for feed in feeds["language"]}
    assert 0 in lengths and len(lengths) > 3  # prefills and later tokens
    monkeypatch.setattr(calibration, "KEPT", 10**6)
    every = record(random_engine, FootageQuestions([video], WORDS))
    assert len(every["language"]) > len(feeds["language"])
    assert len(feeds["vision"]) == min(len(every["vision"]), 24)
    # Drawn from all calls: not the first ones only.
    assert max(lengths) > max(len(f["past_key_0"]) for f in every["language"][: len(lengths)])


def test_onnx_runtime_multiplies_in_int8(
    random_engine: Path, feeds: calibration.Feeds, config, tmp_path: Path
) -> None:
    """Rather than make float32 weights of them at every call, as it does with some graphs."""
    multiplied = {"QGemm", "MatMulIntegerToFloat"}
    for name in ("vision", "packer", "language"):
        path = Path(shutil.copy(random_engine / f"{name}.onnx", tmp_path))
        quantize_int8(path, feeds[name], config.vocabulary, ONNX_RUNTIME)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        quantized = sum(tensor == TensorProto.INT8 for tensor in matrices(path).values())
        assert quantized and sum(node.op_type in multiplied for node in nodes) == quantized, name


@pytest.mark.parametrize("dialect", [ONNX_RUNTIME, TENSORRT], ids=["onnxruntime", "tensorrt"])
def test_int8_leaves_words_and_coordinates_alone(
    language: Path, feeds: calibration.Feeds, config, dialect
) -> None:
    products = [n for n in onnx.load(language).graph.node if n.op_type in ("MatMul", "Gemm")]
    size = language.stat().st_size
    quantize_int8(language, feeds["language"], config.vocabulary, dialect)
    graph = onnx.load(language).graph
    after = {tensor.name: tensor for tensor in graph.initializer}
    layers = config.language.num_hidden_layers
    int8 = [t for t in after.values() if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    assert len(int8) == 4 * layers  # queries with keys and values, out, gate with up, down
    assert words(language, config.vocabulary) == [TensorProto.FLOAT] * 2
    assert language.stat().st_size < size
    # Attention multiplies activations, which stay as they are.
    assert sum(n.op_type in ("MatMul", "Gemm") for n in graph.node) == len(products)
    zeros = [
        numpy_helper.to_array(after[node.input[2]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    ]
    symmetric = all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert symmetric == (dialect is TENSORRT)
    assert {zero.dtype for zero in zeros} == {np.dtype("int8" if symmetric else "uint8")}


def test_int4_is_for_the_decoders_matrices(language: Path, config, tmp_path: Path) -> None:
    other = Path(shutil.copy(language, tmp_path / "tensorrt.onnx"))
    quantize_int4(language, config.vocabulary, ONNX_RUNTIME)
    quantize_int4(other, config.vocabulary, TENSORRT)
    layers = config.language.num_hidden_layers
    operators = Counter(node.op_type for node in onnx.load(language).graph.node)
    assert operators["MatMulNBits"] == 4 * layers
    graph = onnx.load(other).graph
    assert sum(t.data_type == TensorProto.INT4 for t in graph.initializer) == 4 * layers
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) == 4 * layers
    for path in (language, other):
        assert words(path, config.vocabulary) == [TensorProto.FLOAT] * 2


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_tensorrt_builds_them(
    language: Path, feeds: calibration.Feeds, config, precision: str, tmp_path: Path
) -> None:
    if precision == "int8":
        quantize_int8(language, feeds["language"], config.vocabulary, TENSORRT)
    else:
        quantize_int4(language, config.vocabulary, TENSORRT)
    onnx_files.rewrite(language, decomposed)
    assert not unsupported(language, OLDEST)
    settings = BuildSettings(compute_capabilities=("SM89",))
    engine = tmp_path / "language.engine"
    ranges = profiles(config)["language"]
    build_engine(language, engine, ranges, settings, load_tensorrt("tensorrt_rtx"))
    assert engine.stat().st_size > 10_000


def test_weights_beside_the_graph_stay_there(
    language: Path, feeds: calibration.Feeds, config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL", 1000)
    onnx_files.rewrite(language, lambda model: None)
    aside = language.with_suffix(".data")
    whole = aside.stat().st_size
    assert language.stat().st_size < whole
    quantize_int8(language, feeds["language"], config.vocabulary, ONNX_RUNTIME)
    assert 0 < aside.stat().st_size < whole
    assert sorted(path.name for path in language.parent.iterdir()) == [
        "language.data",
        "language.onnx",
    ]
    monkeypatch.setattr(onnx_files, "EXTERNAL", 1 << 30)
    onnx_files.rewrite(language, lambda model: None)
    assert not aside.exists()
    onnx.load(language)


def test_a_matrix_that_no_group_divides(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((20, 8), np.float32), "weight")
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    values = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size])
        for name, size in (("x", 20), ("y", 8))
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    path = tmp_path / "odd.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(EngineError, match="20 rows in int4") as error:
        quantize_int4(path, 999, ONNX_RUNTIME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_exported_it_is_proved_and_runs(
    random_checkpoint: Path, video: Path, precision: str, tmp_path: Path
) -> None:
    out = tmp_path / "engine"
    questions = FootageQuestions([video], WORDS)
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    proof = export_checkpoint(
        random_checkpoint, read_target("cpu"), precision, out, questions=questions
    )
    assert (root.level, root.handlers) == before  # ONNX Runtime's quantiser would log it all
    manifest = read_manifest(out)
    assert manifest.precision == precision and manifest.backend == "onnxruntime"
    assert {path.suffix for path in out.iterdir()} <= {".onnx", ".json", ".safetensors"}
    assert 0 < proof.divergence < 0.1
    assert (proof.graphs["vision"].relative > 1e-3) == (precision == "int8")
    backend, _ = load_backend(out)
    assert backend.describe().precision == precision
    again, problems = verify(out, random_checkpoint)
    assert again.graphs == proof.graphs and not problems


def test_int8_needs_questions_and_words(
    random_checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="int8 without questions"):
        export_checkpoint(random_checkpoint, read_target("cpu"), "int8", tmp_path / "out")
    with pytest.raises(ConfigError, match="without a question"):
        FootageQuestions([video], ())
    with pytest.raises(CheckpointError, match="tokenizer"):
        SimulatedQuestions(1)(None, None)  # type: ignore[arg-type]
    arguments = ["export", "--checkpoint", str(random_checkpoint), "--out", str(tmp_path / "out")]
    for more in (
        ["--precision", "int8", "--query", "a ball"],
        ["--precision", "int8", "--calibrate", str(video)],
        ["--precision", "int8", "--calibrate", str(tmp_path / "no.mp4"), "--query", "a ball"],
        ["--simulated", "-1"],
        ["--calibrate", str(video), "--query", "a ball"],  # for float32
        ["--target", "desktop_tensorrt", "--bisect"],
        ["--plugins", str(video)],
        ["--target", "desktop_tensorrt", "--precision", "int4", "--plugins", str(video)],
    ):
        assert main([*arguments, *more]) == 2, more
    assert not list(tmp_path.iterdir())


def test_bisect_finds_the_node_that_was_changed(
    random_engine: Path, feeds: calibration.Feeds, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_engine, tmp_path / "engine"))
    assert not list(bisect(random_engine, folder, 1e-6))
    path = folder / "language.onnx"
    model = onnx.load(path)
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = [node for node in products if node.input[1] in tensors][3]
    weight = tensors[changed.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    onnx.save(model, path)
    parting = first_beyond(random_engine / "language.onnx", path, feeds["language"][0], 1e-4)
    assert parting is not None and parting.node == changed.name
    (line,) = bisect(random_engine, folder, 1e-4)
    assert line.startswith(f"language: {changed.name} (")


def test_a_failed_export_says_where(
    random_checkpoint: Path,
    random_engine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch,
) -> None:
    target = read_target("cpu")
    strict = {**target.precisions, "int4": target.precisions["float32"]}
    strict_target = dataclasses.replace(target, precisions=strict)
    for module in (export_target, engine_directory):
        monkeypatch.setattr(module, "read_target", lambda name: strict_target)
    export = engine_directory.export_checkpoint

    def without_float32(folder: Path, to: Target, precision: str, out: Path, **more: Any) -> Any:
        if precision != "float32":
            return export(folder, to, precision, out, **more)
        return shutil.copytree(random_engine, out)  # it is there already

    monkeypatch.setattr(engine_directory, "export_checkpoint", without_float32)
    arguments = ["export", "--checkpoint", str(random_checkpoint), "--precision", "int4"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--bisect"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "language differs by" in said, said
    assert re.search(r"; language: \w+ \((Add|MatMulNBits)\) differs by", said), said
    assert not list(tmp_path.iterdir())


def test_the_reference_loses_nothing_against_itself() -> None:
    backend, tokenizer = load_backend(default_checkpoint())
    clips = simulated_clips(backend.describe().model, 2)
    accuracy = compare_answers(*(answer(backend, tokenizer, clips) for _ in range(2)))
    assert accuracy.clips == 2 and accuracy.equal == 1.0 and accuracy.loss == 0.0
    assert 0.0 < accuracy.reference <= 1.0
