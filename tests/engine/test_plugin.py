"""The CUDA kernels and the TensorRT plugin: built by nvcc, tested in C++, loaded by TensorRT.

With a GPU the kernels run there; without one their source runs on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from llava_st_ros.engine.tensorrt_api import error_logger, load_plugins
from llava_st_ros.errors import EngineError
from llava_st_ros.export.graphs.region_attention import SCHEMA
from llava_st_ros.export.plugin_names import DOMAIN, NAME, PLUGIN, VERSION
from llava_st_ros.model.packer.region_attention import region_attention
from support.native_build import NATIVE, build_native, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def build() -> Path:
    return build_native()


@pytest.fixture(scope="module")
def library(build: Path) -> Path:
    library = build / "libllava_st_plugins.so"
    if not library.exists():
        pytest.skip("no plugin library: TensorRT's headers are missing")
    return library


@pytest.fixture
def program(build: Path, name: str, request: pytest.FixtureRequest) -> Path:
    """The C++ test program of that name."""
    if name == "test_plugin":
        request.getfixturevalue("library")
    return build / "tests" / name


@pytest.mark.parametrize(
    ("query", "grid", "spatial", "temporal"),
    [((2, 3, 2, 4, 7), (2, 9, 6, 7), 3, 1), ((3, 2, 5, 3, 8), (15, 2, 5, 8), 1, 5)],
)
def test_cpu_reference_equals_the_operator(
    build: Path, query: tuple[int, ...], grid: tuple[int, ...], spatial: int, temporal: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (query, grid, grid)
    ]
    output = torch.full(query, torch.nan, dtype=torch.float64)
    frames, height, width, embed_dim = grid
    sizes = (frames, height, width, query[3], embed_dim, spatial, temporal)
    ctypes.CDLL(
        str(build / "tests" / "libllava_st_reference_for_python.so")
    ).region_attention_reference(
        (ctypes.c_int64 * 7)(*sizes),
        ctypes.c_double(1e-5),
        *(ctypes.c_void_p(x.data_ptr()) for x in (*inputs, output)),
    )
    expected = region_attention(*inputs, spatial, temporal, 1e-5)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["test_gather_add_gelu", "test_region_attention", "test_plugin"])
def test_kernels_and_plugin_without_a_gpu(program: Path) -> None:
    result = run(program, "--gtest_brief=1")
    assert result.returncode == 0 and " PASSED " in result.stdout, result.stdout


@pytest.mark.parametrize(
    "name", ["test_gather_add_gelu_gpu", "test_region_attention_gpu", "test_plugin"]
)
def test_kernels_and_plugin_on_a_gpu(program: Path) -> None:
    result = run(program)
    assert result.returncode == 0, result.stdout
    for line in result.stdout.splitlines():
        if line.startswith("no GPU"):
            pytest.skip(line)


def test_plugin_library_exports_two_entry_points(library: Path) -> None:
    symbols = run("nm", "-D", "--defined-only", library).stdout.split()[2::3]
    assert sorted(symbols) == ["getCreators", "setLoggerFinder"]


def test_configuring_without_nvcc_fails(build: Path, tmp_path: Path) -> None:
    result = run("cmake", "-S", NATIVE, "-B", tmp_path, "-DCMAKE_CUDA_COMPILER=")
    assert result.returncode != 0
    assert "nvcc is missing; install CUDA" in " ".join(result.stderr.split())


def test_plugins_are_skipped_without_tensorrt_headers(build: Path, tmp_path: Path) -> None:
    result = run("cmake", "-S", NATIVE, "-B", tmp_path, "-DTENSORRT_INCLUDE_DIR=")
    assert result.returncode == 0, result.stderr
    assert "NvInferRuntime.h is missing; install" in " ".join(result.stderr.split())
    targets = run("cmake", "--build", tmp_path, "--target", "help").stdout
    assert "llava_st_kernels" in targets and "llava_st_plugins" not in targets


@pytest.fixture(params=["tensorrt_lean", "tensorrt_rtx"])
def tensorrt(request: pytest.FixtureRequest) -> ModuleType:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return importlib.import_module(request.param)


@pytest.fixture
def registry(tensorrt: ModuleType):
    """The plugin registry; in TensorRT for RTX it belongs to the builder."""
    if hasattr(tensorrt, "Builder"):
        builder = tensorrt.Builder(tensorrt.Logger())
        yield builder.get_plugin_registry()
    else:
        yield tensorrt.get_plugin_registry()


def fields(tensorrt: ModuleType, **values: np.generic) -> Any:
    kinds = {
        np.int32: tensorrt.PluginFieldType.INT32,
        np.float32: tensorrt.PluginFieldType.FLOAT32,
    }
    return tensorrt.PluginFieldCollection(
        [
            tensorrt.PluginField(name, np.array([value]), kinds[type(value)])
            for name, value in values.items()
        ]
    )


def test_registry_finds_the_creator_and_creates_the_plugin(
    library: Path, tensorrt: ModuleType, registry: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    load_plugins(registry, library, error_logger(tensorrt))
    creator = registry.get_creator(NAME, str(VERSION), DOMAIN)
    assert creator is not None
    # The ONNX parser passes the node's attributes by these names and types.
    kinds = {
        onnx.defs.OpSchema.AttrType.INT: tensorrt.PluginFieldType.INT32,
        onnx.defs.OpSchema.AttrType.FLOAT: tensorrt.PluginFieldType.FLOAT32,
    }
    assert {field.name: field.type for field in creator.field_names} == {
        name: kinds[attribute.type]
        for name, attribute in SCHEMA.attributes.items()
        if name not in PLUGIN
    }
    good = {
        "spatial_region": np.int32(3),
        "temporal_region": np.int32(1),
        "epsilon": np.float32(1e-5),
    }
    for phase in (tensorrt.TensorRTPhase.BUILD, tensorrt.TensorRTPhase.RUNTIME):
        assert creator.create_plugin("node", fields(tensorrt, **good), phase) is not None
    for change, reason in (
        ({"spatial_region": np.int32(5)}, "tokens of a region is 25; expected 1 to 16"),
        ({"epsilon": np.int32(1)}, "epsilon is of another type; expected one float32"),
    ):
        bad = fields(tensorrt, **{**good, **change})
        assert creator.create_plugin("node", bad, tensorrt.TensorRTPhase.BUILD) is None
        assert f"{NAME}: " in (log := capfd.readouterr().err) and reason in log


def test_invalid_plugin_library_is_rejected(
    tensorrt: ModuleType, registry: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"")
    with pytest.raises(EngineError, match="cannot load this plugin library"):
        load_plugins(registry, other, error_logger(tensorrt))
