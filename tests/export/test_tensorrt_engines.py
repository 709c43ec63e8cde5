"""Graphs transformed for TensorRT, and all engines of a model built from them.

TensorRT for RTX builds them ahead of time, without a GPU; the plugin form needs a GPU.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.graphs.region_attention import decompose, use_plugin
from llava_st_ros.export.onnx_export import transform_graph
from llava_st_ros.export.plugin_names import DOMAIN, NAME
from llava_st_ros.export.target import Target, read_target, target_names
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.engines import build_engines, missing_layers, prepare_build
from llava_st_ros.export.tensorrt.operators import find_unsupported
from llava_st_ros.export.tensorrt.profiles import profiles

pytestmark = pytest.mark.slow

AHEAD = BuildSettings(compute_capabilities=("SM89",))
OLDEST = (10, 3)


@pytest.fixture(scope="module")
def tensorrt() -> ModuleType:
    return load_tensorrt("tensorrt_rtx")


@pytest.fixture(scope="module")
def half(half_engine: Path, tmp_path_factory: pytest.TempPathFactory):
    """The config, the float16 graphs decomposed, and the packer with plugin nodes."""
    folder = Path(shutil.copytree(half_engine, tmp_path_factory.mktemp("graphs") / "half"))
    plugin = Path(shutil.copy(folder / "packer.onnx", folder / "plugin.onnx"))
    files = {name: folder / file for name, file in read_manifest(half_engine).graphs.items()}
    transform_graph(plugin, use_plugin)
    for path in files.values():
        transform_graph(path, decompose)
    return read_config(read_checkpoint_json(folder / "config.json"), {}), files, plugin


def test_packer_has_a_plugin_form_and_a_decomposed_form(half) -> None:
    _, plain, plugin = half
    model = onnx.load(plugin)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [NAME] * 3 and all(node.name for node in nodes)
    for node in nodes:
        plugin_attributes = {a.name: a.s.decode() for a in node.attribute if a.type == a.STRING}
        assert plugin_attributes == {"plugin_version": "1", "plugin_namespace": DOMAIN}
    assert [p.operator for p in find_unsupported(plugin, OLDEST)] == [NAME] * 3
    assert find_unsupported(plugin, OLDEST, {NAME}) == []

    model = onnx.load(plain["packer"])
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions and {o.domain for o in model.opset_import} == {""}
    assert Counter(node.op_type for node in model.graph.node)["Softmax"] == 3
    for path in plain.values():
        assert find_unsupported(path, OLDEST) == []


def test_decomposed_packer_computes_the_same(half, random_engine: Path) -> None:
    config, plain, _ = half
    rng = np.random.default_rng(0)
    shape = (config.num_frames, config.tokens_per_frame, config.language.hidden_size)
    frames = np.arange(config.num_frames)
    features = rng.normal(size=shape).astype(np.float16)
    feed = {"features": features, "frames": frames, "time_indices": frames}
    actual = InferenceSession(plain["packer"]).run(None, feed)
    feed["features"] = features.astype(np.float32)
    expected = InferenceSession(random_engine / "packer.onnx").run(None, feed)
    for float16, float32 in zip(actual, expected):
        np.testing.assert_allclose(float16, float32, atol=0.02 * float32.std())


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # only in TensorRT for RTX
def test_all_engines_of_a_model_are_built(
    half, tensorrt: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, plain, _ = half
    settings = dataclasses.replace(AHEAD, timing_cache=tmp_path / "cache" / "no such folder")
    files = build_engines(plain, tmp_path, config, OLDEST, tensorrt, settings)
    assert files == {name: f"{name}.engine" for name in plain}
    assert {path.name for path in tmp_path.iterdir()} == set(files.values())
    assert capsys.readouterr().err == ""  # progress bars are shown on terminals only


def test_all_graphs_are_checked_before_the_first_build(
    half, tensorrt: ModuleType, tmp_path: Path
) -> None:
    config, plain, plugin = half
    with pytest.raises(EngineError, match=f"{NAME}.*not an operator of TensorRT 10.3") as error:
        build_engines({**plain, "packer": plugin}, tmp_path, config, OLDEST, tensorrt, AHEAD)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # only in TensorRT for RTX
def test_interrupted_build_keeps_its_timings(half, tensorrt: ModuleType, tmp_path: Path) -> None:
    config, plain, _ = half
    shares: list[float] = []

    def stop(phase: str, share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    cache, out = tmp_path / "timing.cache", tmp_path / "image.engine"
    cache.write_bytes(b"from another device, or corrupt")
    settings = dataclasses.replace(AHEAD, timing_cache=cache)
    ranges = profiles(config)["image"]
    with pytest.raises(KeyboardInterrupt):
        build_engine(plain["image"], out, ranges, settings, tensorrt, stop)
    assert shares == sorted(shares) and shares[-1] > 0.5 and len(shares) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"timing.cache"}
    assert len(cache.read_bytes()) > len(b"from another device, or corrupt")
    build_engine(plain["image"], out, ranges, settings, tensorrt)
    assert out.is_file()


def test_progress_grows_to_one(half, tensorrt: ModuleType, tmp_path: Path) -> None:
    config, plain, _ = half
    shares: list[float] = []
    out = tmp_path / "packer.engine"
    ranges = profiles(config)["packer"]
    build_engine(
        plain["packer"], out, ranges, AHEAD, tensorrt, lambda phase, share: shares.append(share)
    )
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(set(shares)) > 20


def test_missing_layers_are_found() -> None:
    # Both forms of the engine inspector: names only, and detailed.
    names = '{"Layers": ["node_A_1", "node_conv_1 + node_relu_1"], "Bindings": ["x"]}'
    detail = '{"Layers": [{"Name": "node_A_1"}, {"Name": "node_conv_1 + node_relu_1"}]}'
    for information in (names, detail):
        assert missing_layers(information, ["node_A_1", "node_relu_1"]) == []
        assert missing_layers(information, ["node_A", "node_A_12", "x"]) == [
            "node_A",
            "node_A_12",
            "x",
        ]


def test_machine_that_does_not_match_the_target_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = [read_target(name) for name in target_names()]
    targets = [target for target in targets if target.backend == "tensorrt"]
    assert len(targets) == 4

    def assert_rejected(target: Target, message: str, plugins: Path | None = None) -> None:
        with pytest.raises(BackendError, match=message) as error:
            prepare_build(target, plugins)
        assert "\n" not in str(error.value)

    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not installed
    jetson, desktop = read_target("jetson_orin_jp72"), read_target("desktop_tensorrt")
    missing = "the Python package tensorrt is not installed; "
    assert_rejected(jetson, missing)  # TensorRT for RTX does not run on a Jetson
    assert_rejected(desktop, missing, Path("libplugins.so"))  # nor load plugins
    installed = ModuleType("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", installed)
    installed.__version__ = "10.9.0.34"
    assert_rejected(
        jetson, r"TensorRT is 10\.9\.0\.34; target jetson_orin_jp72 needs 10\.16 or later"
    )
    installed.__version__ = "10.16.1"
    no_such_gpu = dataclasses.replace(jetson, compute_capability="0.1")
    assert_rejected(
        no_such_gpu, "no NVIDIA driver|CUDA|cuda-bindings"
    )  # no GPU, or one of another compute capability


@pytest.mark.gpu
def test_engines_are_built_on_this_machines_gpu(
    half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``LLAVA_ST_PLUGINS`` is the path of the plugin library, if it is built."""
    config, plain, plugin = half
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = os.environ.get("LLAVA_ST_PLUGINS")
    target = read_target("desktop_tensorrt")
    try:
        tensorrt, settings = prepare_build(target, Path(library) if library else None)
    except BackendError as error:
        pytest.skip(str(error))
    assert settings.workspace == 4 << 30
    chosen = {**plain, "packer": plugin} if library else plain
    files = build_engines(chosen, tmp_path, config, OLDEST, tensorrt, settings)
    assert set(files) == set(plain)
    assert settings.timing_cache is not None and settings.timing_cache.is_file()
