"""Weights that float16 represents exactly are stored so, and change no result."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from llava_st_ros.backends.base import Backend
from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.export import runtimes
from llava_st_ros.export.calibration import Feeds, record_inputs
from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
from llava_st_ros.export.half_weights import LEAST_BYTES, store_exact_weights_in_half
from llava_st_ros.export.quantize import ONNX_RUNTIME, quantize_int4, quantize_int8
from llava_st_ros.export.target import read_target
from llava_st_ros.export.validate.proof import run_reference_inputs
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint

SIDE = 32  # a matrix has 4 KiB
ROWS = np.random.default_rng(0).normal(size=(3, SIDE)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1).normal(size=(SIDE, SIDE))
    exact = random.astype(np.float16).astype(np.float32)
    tiny = exact.copy()
    tiny[0, 0] = 2.0**-24  # the smallest number of float16
    large, between = exact.copy(), exact.copy()
    large[0, 0], between[0, 0] = 65536.0, 1.0 + 2.0**-11
    return {
        "exact": exact,
        "tiny": tiny,
        "negative_zero": np.full((SIDE, SIDE), -0.0, np.float32),
        "large": large,
        "between": between,
        "short": np.ones(SIDE, np.float32),
    }


HALF = {"exact", "tiny", "negative_zero"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x times each matrix, and x plus the vector."""
    products = {name: "Add" if w.ndim == 1 else "MatMul" for name, w in weights().items()}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ["x", name], [f"{name}_y"]) for name, op in products.items()],
            "products",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", SIDE])],
            [
                helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["rows", SIDE])
                for name in products
            ],
            [numpy_helper.from_array(weight, name) for name, weight in weights().items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path / "products.onnx"
    onnx.save(model, path)
    return path


def session(path: Path, **settings: object) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for name, value in settings.items():
        setattr(options, name, value)
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def outputs(path: Path) -> list[np.ndarray]:
    return session(path).run(None, {"x": ROWS})


def test_exact_weights_are_halved_and_all_results_are_the_same_bits(graph: Path) -> None:
    before, size, shape = outputs(graph), graph.stat().st_size, weights()["exact"].shape
    store_exact_weights_in_half(graph)
    stored = {t.name: t for t in onnx.load(graph).graph.initializer}
    assert set(stored) == {f"{name}.half" if name in HALF else name for name in weights()}
    for name in HALF:
        half = numpy_helper.to_array(stored[f"{name}.half"])
        assert half.dtype == np.float16 and half.shape == shape
        assert half.astype(np.float32).tobytes() == weights()[name].tobytes()
    saved = len(HALF) * SIDE * SIDE * 2
    assert saved - 300 < size - graph.stat().st_size < saved
    for one, other in zip(before, outputs(graph)):
        assert one.tobytes() == other.tobytes()


def test_onnxruntime_converts_them_when_it_loads_the_graph(graph: Path, tmp_path: Path) -> None:
    store_exact_weights_in_half(graph)
    casts = [node.op_type for node in onnx.load(graph).graph.node].count("Cast")
    assert casts == len(HALF)
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    path = tmp_path / "optimized.onnx"
    session(graph, graph_optimization_level=level, optimized_model_filepath=str(path))
    optimized = onnx.load(path).graph
    assert not [node for node in optimized.node if node.op_type == "Cast"]
    assert {t.data_type for t in optimized.initializer} == {TensorProto.FLOAT}


def test_again_changes_nothing(graph: Path) -> None:
    store_exact_weights_in_half(graph)
    once = graph.read_bytes()
    store_exact_weights_in_half(graph)
    assert graph.read_bytes() == once


def test_graphs_with_external_data_are_left_as_they_are(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    path = folder / "products.onnx"
    onnx.save(
        onnx.load(graph), path, save_as_external_data=True, location="products.data",
        size_threshold=LEAST_BYTES,
    )  # fmt: skip
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(before) == {"products.onnx", "products.data"}
    store_exact_weights_in_half(path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def ask_reference_prompts(backend: Backend, tokenizer: object) -> None:
    run_reference_inputs(backend)


@pytest.fixture(scope="module")
def single_engine(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 checkpoint as a float32 engine whose weights are all stored in float32."""
    folder = tmp_path_factory.mktemp("single")
    loaded = load_checkpoint(random_checkpoint)
    checkpoint = folder / "checkpoint"
    save_checkpoint(checkpoint, loaded.model, loaded.config, loaded.tokenizer, "float16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "store_exact_weights_in_half", lambda path: None)
        export_checkpoint(
            ExportRequest(checkpoint, read_target("cpu"), "float32", folder / "engine")
        )
    return folder / "engine"


@pytest.fixture(scope="module")
def feeds(single_engine: Path) -> Feeds:
    """What the graphs receive while frames are encoded and prompts are continued."""
    return record_inputs(single_engine, ask_reference_prompts)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_no_output_of_an_engine_changes_by_a_bit(
    single_engine: Path, feeds: Feeds, precision: str, tmp_path: Path
) -> None:
    values = read_checkpoint_json(single_engine / "config.json")
    vocabulary = read_config(values, {}).vocabulary
    for name, calls in feeds.items():
        before = Path(shutil.copy(single_engine / f"{name}.onnx", tmp_path / f"{name}.before.onnx"))
        if precision == "int8" and name != "image":
            quantize_int8(before, calls, vocabulary, ONNX_RUNTIME)
        if precision == "int4" and name == "language":
            quantize_int4(before, vocabulary, ONNX_RUNTIME)
        after = Path(shutil.copy(before, tmp_path / f"{name}.after.onnx"))
        store_exact_weights_in_half(after)
        if name == "language":  # its embeddings and head are never quantized
            assert after.stat().st_size < before.stat().st_size
        expected, actual = session(before), session(after)
        for call in calls:
            for one, other in zip(expected.run(None, call), actual.run(None, call)):
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name
