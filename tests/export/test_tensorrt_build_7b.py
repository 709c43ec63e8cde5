"""TensorRT for RTX builds the published 7B's vision tower and packer, without a GPU: every width
and the number of layers are the published ones, weights are random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published_layout import published_geometry
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.export import onnx as onnx_files
from llava_st_ros.export.graphs.region_attention import decomposed
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.model.llava_st import LlavaST

ASIDE = 64 << 20  # bytes from which weights are external: both graphs' are
AHEAD = BuildSettings(compute_capabilities=("SM89",))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return published_geometry()


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> LlavaST:
    """float16; the decoder has shapes but no memory."""
    with torch.device("meta"):
        model = LlavaST(config).half()
    tables = [model.table(axis, side) for axis in Axis for side in ("input", "output")]
    torch.manual_seed(0)
    for part in (
        model.model.vision_tower,
        model.model.mm_projector,
        model.model.vision_resampler,
        *tables,
    ):
        part.to_empty(device="cpu")
        for parameter in part.parameters():
            parameter.detach().normal_(std=0.02)
    model.model.vision_tower.materialize_buffers("cpu")
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision", "packer"])
def test_the_published_widths_are_built(
    config: ModelConfig,
    model: LlavaST,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL", ASIDE)
    graph = next(graph for graph in onnx_files.graphs(model) if graph.name == name)
    path, engine = tmp_path / f"{name}.onnx", tmp_path / f"{name}.engine"
    onnx_files.write(graph, path)
    onnx_files.rewrite(path, decomposed)
    weights = (tmp_path / f"{name}.data").stat().st_size
    assert weights > ASIDE and path.stat().st_size < 1 << 20
    build_engine(path, engine, profiles(config)[name], AHEAD, load_tensorrt("tensorrt_rtx"))
    # The weights were found: they are in the engine.
    assert engine.stat().st_size > 0.9 * weights
