"""TensorRT for RTX builds the published 7B's vision tower and packer, without a GPU.

All widths and the number of layers are the published ones; the weights are random.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published_layout import published_geometry
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.export import onnx_export
from llava_st_ros.export.graphs.region_attention import decompose
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.model.llava_st import LlavaST

pytestmark = pytest.mark.slow

EXTERNAL_BYTES = 64 << 20  # both graphs have more weights
AHEAD = BuildSettings(compute_capabilities=("SM89",))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return published_geometry()


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> LlavaST:
    """In float16; the decoder is on the meta device."""
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


@pytest.mark.parametrize("name", ["vision", "packer"])
def test_published_widths_are_built(
    config: ModelConfig,
    model: LlavaST,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", EXTERNAL_BYTES)
    spec = next(spec for spec in onnx_export.graph_specs(model) if spec.name == name)
    path, engine = tmp_path / f"{name}.onnx", tmp_path / f"{name}.engine"
    onnx_export.export_graph(spec, path)
    onnx_export.transform_graph(path, decompose)
    weights = (tmp_path / f"{name}.data").stat().st_size
    assert weights > EXTERNAL_BYTES and path.stat().st_size < 1 << 20
    build_engine(path, engine, profiles(config)[name], AHEAD, load_tensorrt("tensorrt_rtx"))
    # The engine contains the external weights.
    assert engine.stat().st_size > 0.9 * weights
