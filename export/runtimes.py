"""What each runtime does in an export: checks, quantization scheme, and the final build."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llava_st_ros.backends.onnxruntime import resolve_device
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.export.graphs.region_attention import decompose, use_plugin
from llava_st_ros.export.half_weights import store_exact_weights_in_half
from llava_st_ros.export.onnx_export import transform_graph
from llava_st_ros.export.quantize import ONNX_RUNTIME, TENSORRT, QuantizationScheme
from llava_st_ros.export.target import Target
from llava_st_ros.files.checksums import sha256_of


@dataclass(frozen=True)
class BuiltGraphs:
    """The files that a runtime runs.

    Attributes:
        files: File name by graph.
        machine: The machine that engines require (``engine.machine``); empty if any will do.
        onnx: SHA-256 of the ONNX file of each engine; empty if the ONNX files are run themselves.
    """

    files: Mapping[str, str]
    machine: Mapping[str, str] = field(default_factory=dict)
    onnx: Mapping[str, str] = field(default_factory=dict)


class ExportRuntime(Protocol):
    """The runtime-specific part of one export.

    Created before the export starts, so that a missing package or device is reported immediately.
    """

    @property
    def quantization(self) -> QuantizationScheme: ...

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> BuiltGraphs:
        """Turn the ONNX files in ``folder`` (file name by graph) into what the runtime runs.

        Raises:
            EngineError: A graph cannot be built.
        """
        ...


def export_runtime(target: Target, device: str, plugins: Path | None = None) -> ExportRuntime:
    """Create the runtime part of an export.

    Args:
        target: Target of the export.
        device: Device that runs the proof.
        plugins: TensorRT plugin library.

    Raises:
        BackendError: The target's runtime or the device is missing.
        ConfigError: The target does not use plugins.
    """
    if target.backend == "tensorrt":
        return TensorRTExport(target, plugins)
    if plugins is not None:
        raise ConfigError(
            f"target {target.name} does not use TensorRT plugins",
            "leave the plugin library out, or choose a TensorRT target",
        )
    return OnnxRuntimeExport(device)


class OnnxRuntimeExport:
    """ONNX Runtime runs the exported ONNX files themselves."""

    quantization = ONNX_RUNTIME

    def __init__(self, device: str) -> None:
        resolve_device(device)

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> BuiltGraphs:
        """Store weights in half the bytes where that changes no number."""
        for file in graphs.values():
            store_exact_weights_in_half(folder / file)
        return BuiltGraphs(graphs)


class TensorRTExport:
    """TensorRT builds an engine of each ONNX file. Its packages are imported only here."""

    quantization = TENSORRT

    def __init__(self, target: Target, plugins: Path | None) -> None:
        from llava_st_ros.export.tensorrt.engines import prepare_build

        self._target, self._plugins = target, plugins
        self._tensorrt, self._settings = prepare_build(target, plugins)

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> BuiltGraphs:
        """Replace the ONNX files by engines, and copy the plugin library next to them."""
        from llava_st_ros.engine.cuda_device import CudaDevice
        from llava_st_ros.engine.machine import describe_machine
        from llava_st_ros.export.tensorrt.engines import build_engines

        assert self._target.tensorrt is not None
        paths = {name: folder / file for name, file in graphs.items()}
        for path in paths.values():
            transform_graph(path, decompose if self._plugins is None else use_plugin)
        hashes = {
            name: sha256_of(*(f for f in (path, path.with_suffix(".data")) if f.exists()))
            for name, path in paths.items()
        }
        files = build_engines(
            paths, folder, config, self._target.tensorrt, self._tensorrt, self._settings
        )
        for path in paths.values():
            path.unlink()
            path.with_suffix(".data").unlink(missing_ok=True)
        if self._plugins is not None:
            shutil.copy(self._plugins, folder)
        machine = describe_machine(self._tensorrt, CudaDevice(), self._plugins)
        return BuiltGraphs(files, machine, hashes)
