"""Graphs in TensorRT's forms, and a folder of engines of them.

Built ahead of time by TensorRT for RTX, which needs no GPU; with the plugin only where one is.
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

from llava_st_ros.checkpoint_config import read_config, read_json
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.graphs.region_attention import DOMAIN, NAME, as_plugin, decomposed
from llava_st_ros.export.onnx import rewrite
from llava_st_ros.export.target import Target, read_target, target_names
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.engines import absent_layers, build_engines, prepare
from llava_st_ros.export.tensorrt.operators import unsupported
from llava_st_ros.export.tensorrt.profiles import profiles

AHEAD = BuildSettings(compute_capabilities=("SM89",))
OLDEST = (10, 3)


@pytest.fixture(scope="module")
def tensorrt() -> ModuleType:
    return load_tensorrt("tensorrt_rtx")


@pytest.fixture(scope="module")
def half(half_engine: Path, tmp_path_factory: pytest.TempPathFactory):
    """The configuration, each graph's file in float16, decomposed, and the packer's as a plugin."""
    folder = Path(shutil.copytree(half_engine, tmp_path_factory.mktemp("graphs") / "half"))
    plugin = Path(shutil.copy(folder / "packer.onnx", folder / "plugin.onnx"))
    files = {name: folder / file for name, file in read_manifest(half_engine).graphs.items()}
    rewrite(plugin, as_plugin)
    for path in files.values():
        rewrite(path, decomposed)
    return read_config(read_json(folder / "config.json"), {}), files, plugin


def test_the_packers_two_forms(half) -> None:
    _, plain, plugin = half
    model = onnx.load(plugin)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [NAME] * 3 and all(node.name for node in nodes)
    for node in nodes:
        told = {a.name: a.s.decode() for a in node.attribute if a.type == a.STRING}
        assert told == {"plugin_version": "1", "plugin_namespace": DOMAIN}
    assert [p.operator for p in unsupported(plugin, OLDEST)] == [NAME] * 3
    assert unsupported(plugin, OLDEST, {NAME}) == []

    model = onnx.load(plain["packer"])
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions and {o.domain for o in model.opset_import} == {""}
    assert Counter(node.op_type for node in model.graph.node)["Softmax"] == 3
    for path in plain.values():
        assert unsupported(path, OLDEST) == []


def test_decomposed_it_computes_the_same(half, random_engine: Path) -> None:
    config, plain, _ = half
    rng = np.random.default_rng(0)
    shape = (config.num_frames, config.tokens_per_frame, config.language.hidden_size)
    places = np.arange(config.num_frames)
    features = rng.normal(size=shape).astype(np.float16)
    given = {"features": features, "frames": places, "time_indices": places}
    ours = InferenceSession(plain["packer"]).run(None, given)
    given["features"] = features.astype(np.float32)
    whole = InferenceSession(random_engine / "packer.onnx").run(None, given)
    for half_precise, precise in zip(ours, whole):
        np.testing.assert_allclose(half_precise, precise, atol=0.02 * precise.std())


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # of RTX alone
def test_a_folder_of_engines(
    half, tensorrt: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, plain, _ = half
    settings = dataclasses.replace(AHEAD, timing_cache=tmp_path / "cache" / "no such folder")
    files = build_engines(plain, tmp_path, config, OLDEST, tensorrt, settings)
    assert files == {name: f"{name}.engine" for name in plain}
    assert {path.name for path in tmp_path.iterdir()} == set(files.values())
    assert capsys.readouterr().err == ""  # bars are for terminals


def test_before_the_first_build_all_graphs_are_checked(
    half, tensorrt: ModuleType, tmp_path: Path
) -> None:
    config, plain, plugin = half
    with pytest.raises(EngineError, match=f"{NAME}.*no operator of TensorRT 10.3") as error:
        build_engines({**plain, "packer": plugin}, tmp_path, config, OLDEST, tensorrt, AHEAD)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # of RTX alone
def test_an_interrupted_build_keeps_what_it_timed(
    half, tensorrt: ModuleType, tmp_path: Path
) -> None:
    config, plain, _ = half
    told: list[float] = []

    def stop(phase: str, share: float) -> None:
        told.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    cache, out = tmp_path / "timing.cache", tmp_path / "image.engine"
    cache.write_bytes(b"of another device, or broken")
    settings = dataclasses.replace(AHEAD, timing_cache=cache)
    ranges = profiles(config)["image"]
    with pytest.raises(KeyboardInterrupt):
        build_engine(plain["image"], out, ranges, settings, tensorrt, stop)
    assert told == sorted(told) and told[-1] > 0.5 and len(told) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"timing.cache"}
    assert len(cache.read_bytes()) > len(b"of another device, or broken")
    build_engine(plain["image"], out, ranges, settings, tensorrt)
    assert out.is_file()


def test_the_shares_of_a_build_grow_to_one(half, tensorrt: ModuleType, tmp_path: Path) -> None:
    config, plain, _ = half
    told: list[float] = []
    out = tmp_path / "packer.engine"
    ranges = profiles(config)["packer"]
    build_engine(
        plain["packer"], out, ranges, AHEAD, tensorrt, lambda phase, share: told.append(share)
    )
    assert told == sorted(told) and (told[0], told[-1]) == (0.0, 1.0)
    assert len(set(told)) > 20


def test_layers_that_an_engine_lacks() -> None:
    # As the engine inspector tells them: of names alone, and in detail.
    names = '{"Layers": ["node_A_1", "node_conv_1 + node_relu_1"], "Bindings": ["x"]}'
    detail = '{"Layers": [{"Name": "node_A_1"}, {"Name": "node_conv_1 + node_relu_1"}]}'
    for information in (names, detail):
        assert absent_layers(information, ["node_A_1", "node_relu_1"]) == []
        assert absent_layers(information, ["node_A", "node_A_12", "x"]) == [
            "node_A",
            "node_A_12",
            "x",
        ]


def test_a_machine_that_is_not_the_targets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [read_target(name) for name in target_names()]
    targets = [target for target in targets if target.backend == "tensorrt"]
    assert len(targets) == 4

    def refused(target: Target, says: str, plugins: Path | None = None) -> None:
        with pytest.raises(BackendError, match=says) as error:
            prepare(target, plugins)
        assert "\n" not in str(error.value)

    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not installed
    jetson, desktop = read_target("jetson_orin_jp72"), read_target("desktop_tensorrt")
    refused(jetson, "no tensorrt;")  # that of RTX is no Jetson's
    refused(desktop, "no tensorrt;", Path("libplugins.so"))  # and takes no plugins
    installed = ModuleType("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", installed)
    installed.__version__ = "10.9.0.34"
    refused(jetson, r"TensorRT 10\.9\.0\.34 for target jetson_orin_jp72; expected 10\.16 or later")
    installed.__version__ = "10.16.1"
    nowhere = dataclasses.replace(jetson, compute_capability="0.1")
    refused(nowhere, "GPU|CUDA|cuda-bindings")  # none, or another


@pytest.mark.gpu
def test_on_this_machines_gpu(half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``LLAVA_ST_PLUGINS`` names the plugin library, where it is built."""
    config, plain, plugin = half
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = os.environ.get("LLAVA_ST_PLUGINS")
    target = read_target("desktop_tensorrt")
    try:
        tensorrt, settings = prepare(target, Path(library) if library else None)
    except BackendError as error:
        pytest.skip(str(error))
    assert settings.workspace == 4 << 30
    chosen = {**plain, "packer": plugin} if library else plain
    files = build_engines(chosen, tmp_path, config, OLDEST, tensorrt, settings)
    assert set(files) == set(plain)
    assert settings.timing_cache is not None and settings.timing_cache.is_file()
