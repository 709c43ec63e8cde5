"""TensorRT's own parser and builder take every exported graph: that of RTX needs no GPU for it.

The same code drives the full TensorRT, which cannot be installed here. Nothing is run: for that the
GPU is missing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
import torch

from llava_st_ros.checkpoint_config import read_config, read_json
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export import onnx as onnx_files
from llava_st_ros.export.graphs.region_attention import decomposed
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.model.checkpoint import load_checkpoint

AHEAD = BuildSettings(compute_capabilities=("SM89", "SM120"))


@pytest.fixture(scope="module")
def tensorrt() -> ModuleType:
    return load_tensorrt("tensorrt_rtx")


@pytest.fixture
def ranges(random_engine: Path):
    return profiles(read_config(read_json(random_engine / "config.json"), {}))


def test_every_graph_becomes_an_engine(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    graphs = read_manifest(random_engine).graphs
    assert set(graphs) == set(ranges)
    for name, file in graphs.items():
        told: list[tuple[str, float]] = []
        out = tmp_path / f"{name}.engine"
        build_engine(
            random_engine / file,
            out,
            ranges[name],
            AHEAD,
            tensorrt,
            lambda phase, share: told.append((phase, share)),  # noqa: B023
        )
        assert out.stat().st_size > 10_000
        assert told[0] == ("Building engine", 0.0) and ("Building engine", 1.0) in told
        assert all(0.0 <= share <= 1.0 for _, share in told)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".engine"] * 4


def test_bfloat16_is_taken_too(
    random_checkpoint: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    model = load_checkpoint(random_checkpoint, dtype=torch.bfloat16).model
    for graph in onnx_files.graphs(model):
        path = tmp_path / f"{graph.name}.onnx"
        onnx_files.write(graph, path)
        onnx_files.rewrite(path, decomposed)
        out = path.with_suffix(".engine")
        build_engine(path, out, ranges[graph.name], AHEAD, tensorrt)
        assert out.stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")  # of RTX alone
def test_the_timing_cache_is_kept(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    settings = dataclasses.replace(AHEAD, timing_cache=cache)
    for _ in range(2):  # from nothing, and from what the first build left
        build_engine(
            random_engine / "image.onnx",
            tmp_path / "image.engine",
            ranges["image"],
            settings,
            tensorrt,
        )
        assert cache.stat().st_size > 0


def test_what_cannot_be_built_is_one_line_and_no_file(
    random_engine: Path, ranges, tensorrt: ModuleType, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    vision = random_engine / "vision.onnx"
    other = {"pixels": ranges["vision"][0]["pixels"]._replace(most=(4, 3, 8, 8))}
    unknown = dataclasses.replace(AHEAD, compute_capabilities=("SM1",))
    out = tmp_path / "out.engine"
    for graph, profile, settings, says in (
        (broken, ranges["vision"], AHEAD, "does not take it"),
        (vision, ranges["image"], AHEAD, "other inputs"),
        (vision, [other], AHEAD, "two models"),
        (vision, ranges["vision"], unknown, "SM1"),
    ):
        with pytest.raises(EngineError, match=says) as error:
            build_engine(graph, out, profile, settings, tensorrt)
        assert "\n" not in str(error.value)
    assert not out.exists()


def test_a_missing_tensorrt_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_st_ros.engine.tensorrt_api.RUNTIMES", ("no_such_tensorrt",))
    for name in ("", "no_such_tensorrt"):
        with pytest.raises(BackendError, match="pip install tensorrt"):
            load_tensorrt(name)


def test_profiles_reach_as_far_as_the_model(random_engine: Path, ranges) -> None:
    config = read_config(read_json(random_engine / "config.json"), {})
    for of_graph in ranges.values():
        for profile in of_graph:
            for sizes in profile.values():
                for least, usual, most in zip(*sizes):
                    assert least <= usual <= most
    prefill, extend = ranges["language"]
    visual = config.num_fast_tokens + config.num_slow_tokens
    assert prefill["ids"].most[0] > visual and extend["ids"].usual == (1,)
    longest = prefill["past_key_0"].most[0]
    assert visual + 1024 < longest <= config.language.max_position_embeddings
