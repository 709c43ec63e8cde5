"""TensorRT for RTX parses and builds every exported graph ahead of time, without a GPU.

The same code drives the full TensorRT. The engines are not run here; that needs a GPU.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
import torch

from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export import onnx_export
from llava_st_ros.export.graphs.region_attention import decompose
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

AHEAD = BuildSettings(compute_capabilities=("SM89", "SM120"))


@pytest.fixture(scope="module")
def tensorrt() -> ModuleType:
    return load_tensorrt("tensorrt_rtx")


@pytest.fixture
def ranges(random_engine: Path):
    return profiles(read_config(read_checkpoint_json(random_engine / "config.json"), {}))


def test_every_graph_is_built(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    graphs = read_manifest(random_engine).graphs
    assert set(graphs) == set(ranges)
    for name, file in graphs.items():
        steps: list[tuple[str, float]] = []
        out = tmp_path / f"{name}.engine"
        build_engine(
            random_engine / file,
            out,
            ranges[name],
            AHEAD,
            tensorrt,
            lambda phase, share: steps.append((phase, share)),  # noqa: B023
        )
        assert out.stat().st_size > 10_000
        assert steps[0] == ("Building engine", 0.0) and ("Building engine", 1.0) in steps
        assert all(0.0 <= share <= 1.0 for _, share in steps)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".engine"] * 4


def test_bfloat16_graphs_are_built(
    random_checkpoint: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    model = load_checkpoint(random_checkpoint, dtype=torch.bfloat16).model
    for spec in onnx_export.graph_specs(model):
        path = tmp_path / f"{spec.name}.onnx"
        onnx_export.export_graph(spec, path)
        onnx_export.transform_graph(path, decompose)
        out = path.with_suffix(".engine")
        build_engine(path, out, ranges[spec.name], AHEAD, tensorrt)
        assert out.stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # only in TensorRT for RTX
def test_timing_cache_is_kept(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    settings = dataclasses.replace(AHEAD, timing_cache=cache)
    for _ in range(2):  # without a cache file, and with the first build's
        build_engine(
            random_engine / "image.onnx",
            tmp_path / "image.engine",
            ranges["image"],
            settings,
            tensorrt,
        )
        assert cache.stat().st_size > 0


def test_failed_build_gives_one_line_and_no_file(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    vision = random_engine / "vision.onnx"
    other = {"pixels": ranges["vision"][0]["pixels"]._replace(max=(4, 3, 8, 8))}
    unknown = dataclasses.replace(AHEAD, compute_capabilities=("SM1",))
    out = tmp_path / "out.engine"
    for graph, profile, settings, message in (
        (broken, ranges["vision"], AHEAD, "cannot parse it"),
        (vision, ranges["image"], AHEAD, "inputs differ"),
        (vision, [other], AHEAD, "two models"),
        (vision, ranges["vision"], unknown, "SM1"),
    ):
        with pytest.raises(EngineError, match=message) as error:
            build_engine(graph, out, profile, settings, tensorrt)
        assert "\n" not in str(error.value)
    assert not out.exists()


def test_missing_tensorrt_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_st_ros.engine.tensorrt_api.RUNTIMES", ("no_such_tensorrt",))
    for name in ("", "no_such_tensorrt"):
        with pytest.raises(BackendError, match="pip install tensorrt"):
            load_tensorrt(name)


def test_profiles_cover_the_models_sizes(random_engine: Path, ranges) -> None:
    config = read_config(read_checkpoint_json(random_engine / "config.json"), {})
    for of_graph in ranges.values():
        for profile in of_graph:
            for sizes in profile.values():
                for smallest, optimal, largest in zip(*sizes):
                    assert smallest <= optimal <= largest
    prefill, extend = ranges["language"]
    visual = config.num_fast_tokens + config.num_slow_tokens
    assert prefill["ids"].max[0] > visual and extend["ids"].opt == (1,)
    longest = prefill["past_key_0"].max[0]
    assert visual + 1024 < longest <= config.language.max_position_embeddings
