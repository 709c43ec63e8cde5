"""int8 and int4 graphs: what is quantized for each runtime, calibration, proof and divergence."""

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
from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.cli.__main__ import main
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import CheckpointError, ConfigError, EngineError
from llava_st_ros.export import calibration, engine_directory, onnx_export
from llava_st_ros.export import target as export_target
from llava_st_ros.export.calibration import FootageQueries, SimulatedQueries, record_inputs
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint, verify
from llava_st_ros.export.graphs.region_attention import decompose
from llava_st_ros.export.quantize import (
    ONNX_RUNTIME,
    TENSORRT,
    QuantizationScheme,
    quantize_int4,
    quantize_int8,
)
from llava_st_ros.export.target import read_target
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.operators import find_unsupported
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.export.validate.accuracy import (
    answer_clips,
    compare_answers,
    load_simulated_clips,
)
from llava_st_ros.export.validate.first_divergence import first_divergence, first_divergences

pytestmark = pytest.mark.slow

OLDEST = (10, 3)  # TensorRT
TEXTS = ("the red ball", "the box moves")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a square that crosses the frame."""
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
    return record_inputs(random_engine, FootageQueries([video], TEXTS))


@pytest.fixture
def language(random_engine: Path, tmp_path: Path) -> Path:
    """A copy of the language graph."""
    return Path(shutil.copy(random_engine / "language.onnx", tmp_path))


@pytest.fixture(scope="module")
def config(random_engine: Path):
    return read_config(read_checkpoint_json(random_engine / "config.json"), {})


def matrices(path: Path) -> dict[str, int]:
    """Data type of each constant matrix."""
    return {t.name: t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 2}


def vocabulary_types(path: Path, vocabulary: int) -> list[int]:
    """Data types of the embedding table and the head."""
    tensors = onnx.load(path).graph.initializer
    return [t.data_type for t in tensors if len(t.dims) == 2 and vocabulary in t.dims]


def test_recorded_calls_are_a_sample_of_all_calls(
    feeds: calibration.Feeds, monkeypatch: pytest.MonkeyPatch, random_engine: Path, video: Path
) -> None:
    assert set(feeds) == {"vision", "image", "packer", "language"}
    assert len(feeds["language"]) == calibration.MAX_CALLS  # of many more
    lengths = {len(feed["past_key_0"]) for feed in feeds["language"]}
    assert 0 in lengths and len(lengths) > 3  # prefills and later tokens
    monkeypatch.setattr(calibration, "MAX_CALLS", 10**6)
    every = record_inputs(random_engine, FootageQueries([video], TEXTS))
    assert len(every["language"]) > len(feeds["language"])
    assert len(feeds["vision"]) == min(len(every["vision"]), 24)
    # The sample is drawn from all calls, not only the first ones.
    assert max(lengths) > max(len(f["past_key_0"]) for f in every["language"][: len(lengths)])


def test_onnx_runtime_multiplies_in_int8(
    random_engine: Path, feeds: calibration.Feeds, config, tmp_path: Path
) -> None:
    """It would dequantize the weights at every call if it could not fuse a product."""
    int8_products = {"QGemm", "MatMulIntegerToFloat"}
    for name in ("vision", "packer", "language"):
        path = Path(shutil.copy(random_engine / f"{name}.onnx", tmp_path))
        quantize_int8(path, feeds[name], config.vocabulary, ONNX_RUNTIME)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
        quantized = sum(tensor == TensorProto.INT8 for tensor in matrices(path).values())
        assert quantized and sum(node.op_type in int8_products for node in nodes) == quantized, name


@pytest.mark.parametrize("scheme", [ONNX_RUNTIME, TENSORRT], ids=["onnxruntime", "tensorrt"])
def test_int8_does_not_quantize_embeddings_and_head(
    language: Path, feeds: calibration.Feeds, config, scheme: QuantizationScheme
) -> None:
    products = [n for n in onnx.load(language).graph.node if n.op_type in ("MatMul", "Gemm")]
    size = language.stat().st_size
    quantize_int8(language, feeds["language"], config.vocabulary, scheme)
    graph = onnx.load(language).graph
    after = {tensor.name: tensor for tensor in graph.initializer}
    layers = config.language.num_hidden_layers
    int8 = [t for t in after.values() if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    assert len(int8) == 4 * layers  # queries with keys and values, out, gate with up, down
    assert vocabulary_types(language, config.vocabulary) == [TensorProto.FLOAT] * 2
    assert language.stat().st_size < size
    # Products of two activations (attention) are not quantized.
    assert sum(n.op_type in ("MatMul", "Gemm") for n in graph.node) == len(products)
    zeros = [
        numpy_helper.to_array(after[node.input[2]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    ]
    symmetric = all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert symmetric == (scheme is TENSORRT)
    assert {zero.dtype for zero in zeros} == {np.dtype("int8" if symmetric else "uint8")}


def test_int4_quantizes_the_decoders_matrices(language: Path, config, tmp_path: Path) -> None:
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
        assert vocabulary_types(path, config.vocabulary) == [TensorProto.FLOAT] * 2


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_tensorrt_builds_quantized_graphs(
    language: Path, feeds: calibration.Feeds, config, precision: str, tmp_path: Path
) -> None:
    if precision == "int8":
        quantize_int8(language, feeds["language"], config.vocabulary, TENSORRT)
    else:
        quantize_int4(language, config.vocabulary, TENSORRT)
    onnx_export.transform_graph(language, decompose)
    assert not find_unsupported(language, OLDEST)
    settings = BuildSettings(compute_capabilities=("SM89",))
    engine = tmp_path / "language.engine"
    ranges = profiles(config)["language"]
    build_engine(language, engine, ranges, settings, load_tensorrt("tensorrt_rtx"))
    assert engine.stat().st_size > 10_000


def test_external_weights_stay_external(
    language: Path, feeds: calibration.Feeds, config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", 1000)
    onnx_export.transform_graph(language, lambda model: None)
    data = language.with_suffix(".data")
    size = data.stat().st_size
    assert language.stat().st_size < size
    quantize_int8(language, feeds["language"], config.vocabulary, ONNX_RUNTIME)
    assert 0 < data.stat().st_size < size
    assert sorted(path.name for path in language.parent.iterdir()) == [
        "language.data",
        "language.onnx",
    ]
    monkeypatch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", 1 << 30)
    onnx_export.transform_graph(language, lambda model: None)
    assert not data.exists()
    onnx.load(language)


def test_int4_rejects_rows_that_no_group_size_divides(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((20, 8), np.float32), "weight")
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    values = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size])
        for name, size in (("x", 20), ("y", 8))
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    path = tmp_path / "odd.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(EngineError, match="int4 does not support matrices of 20 rows") as error:
        quantize_int4(path, 999, ONNX_RUNTIME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_engine_is_proved_and_runs(
    random_checkpoint: Path,
    video: Path,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = read_target("cpu")
    # Of random weights, the coordinates' distributions are arbitrary: some are nearly even.
    bounds = dataclasses.replace(target.bounds(precision), p99_bins=20)
    target = dataclasses.replace(target, precisions={**target.precisions, precision: bounds})
    monkeypatch.setattr(engine_directory, "read_target", lambda name: target)
    out = tmp_path / "engine"
    calibration_queries = FootageQueries([video], TEXTS)
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    proof = export_checkpoint(
        ExportRequest(random_checkpoint, target, precision, out, calibration=calibration_queries)
    )
    assert (root.level, root.handlers) == before  # ONNX Runtime's quantizer changes both
    manifest = read_manifest(out)
    assert manifest.precision == precision and manifest.backend == "onnxruntime"
    assert {path.suffix for path in out.iterdir()} <= {".onnx", ".json", ".safetensors"}
    assert not [path for path in out.iterdir() if str(tmp_path).encode() in path.read_bytes()]
    assert 0 < proof.divergence < 0.1
    assert (proof.graphs["vision"].relative > 1e-3) == (precision == "int8")
    backend, _ = load_backend(out)
    assert backend.describe().precision == precision
    again, violations = verify(out, random_checkpoint)
    assert again.graphs == proof.graphs and not violations


def test_int8_needs_queries_and_a_tokenizer(
    random_checkpoint: Path, video: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="int8 requires calibration queries"):
        export_checkpoint(
            ExportRequest(random_checkpoint, read_target("cpu"), "int8", tmp_path / "out")
        )
    with pytest.raises(ConfigError, match="there is no query for the footage"):
        FootageQueries([video], ())
    with pytest.raises(CheckpointError, match="tokenizer"):
        SimulatedQueries(1)(None, None)  # type: ignore[arg-type]
    arguments = ["export", "--checkpoint", str(random_checkpoint), "--out", str(tmp_path / "out")]
    for more in (
        ["--precision", "int8", "--query", "a ball"],
        ["--precision", "int8", "--calibrate", str(video)],
        ["--precision", "int8", "--calibrate", str(tmp_path / "no.mp4"), "--query", "a ball"],
        ["--simulated", "-1"],
        ["--calibrate", str(video), "--query", "a ball"],  # for float32
        ["--target", "desktop_tensorrt", "--first-divergence"],
        ["--plugins", str(video)],
        ["--target", "desktop_tensorrt", "--precision", "int4", "--plugins", str(video)],
    ):
        assert main([*arguments, *more]) == 2, more
    assert not list(tmp_path.iterdir())


def test_first_divergence_is_the_changed_node(
    random_engine: Path, feeds: calibration.Feeds, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_engine, tmp_path / "engine"))
    assert not list(first_divergences(random_engine, folder, 1e-6))
    path = folder / "language.onnx"
    model = onnx.load(path)
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = [node for node in products if node.input[1] in tensors][3]
    weight = tensors[changed.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    onnx.save(model, path)
    found = first_divergence(random_engine / "language.onnx", path, feeds["language"][0], 1e-4)
    assert found is not None and found.node == changed.name
    (line,) = first_divergences(random_engine, folder, 1e-4)
    assert line.startswith(f"language: {changed.name} (")


def test_failed_export_names_the_first_divergence(
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

    def without_float32(request: ExportRequest, *more: Any) -> Any:
        if request.precision != "float32":
            return export(request, *more)
        return shutil.copytree(random_engine, request.out)  # instead of a second export

    monkeypatch.setattr(engine_directory, "export_checkpoint", without_float32)
    arguments = ["export", "--checkpoint", str(random_checkpoint), "--precision", "int4"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--first-divergence"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "language graph, " in error, error
    assert re.search(r"; language: \w+ \((Add|MatMulNBits)\) differs by", error), error
    assert not list(tmp_path.iterdir())


def test_reference_equals_itself_on_simulated_clips() -> None:
    backend, tokenizer = load_backend(default_checkpoint())
    clips = load_simulated_clips(backend.describe().model, 2)
    accuracy = compare_answers(*(answer_clips(backend, tokenizer, clips) for _ in range(2)))
    assert accuracy.clips == 2 and accuracy.equal == 1.0 and accuracy.loss == 0.0
    assert 0.0 < accuracy.reference <= 1.0
