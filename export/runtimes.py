"""What the runtimes want of an export: how it begins, and what their graphs become."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llava_st_ros.backends.onnxruntime import check_device
from llava_st_ros.config import ModelConfig
from llava_st_ros.engine.manifest import sha256_of
from llava_st_ros.errors import ConfigError
from llava_st_ros.export.graphs.region_attention import as_plugin, decomposed
from llava_st_ros.export.onnx import rewrite
from llava_st_ros.export.quantize import ONNX_RUNTIME, TENSORRT, Dialect
from llava_st_ros.export.target import Target


@dataclass(frozen=True)
class Built:
    """``files`` by graph, what they are tied to (``engine.machine``), and the SHA-256 of the ONNX
    files that they were built from; both empty where the ONNX files themselves are run."""

    files: Mapping[str, str]
    machine: Mapping[str, str] = field(default_factory=dict)
    onnx: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """Of one export: made before the work begins, so that what is missing is said at once."""

    dialect: Dialect

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> Built:
        """Turn the ONNX files of ``folder``, by graph, into what is run. Raises EngineError."""
        ...


def runtime_of(target: Target, device: str, plugins: Path | None = None) -> Runtime:
    """Raises BackendError where the target's runtime or its device is not there, ConfigError for
    ``plugins`` that it does not take."""
    if target.backend == "tensorrt":
        return TensorRT(target, plugins)
    if plugins is not None:
        raise ConfigError(
            f"a plugin library for target {target.name}; expected a target of TensorRT",
            "leave it out",
        )
    return OnnxRuntime(device)


class OnnxRuntime:
    dialect = ONNX_RUNTIME

    def __init__(self, device: str) -> None:
        check_device(device)

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> Built:
        """They are run as they are."""
        return Built(graphs)


class TensorRT:
    """Its packages are imported only here: other targets do without."""

    dialect = TENSORRT

    def __init__(self, target: Target, plugins: Path | None) -> None:
        from llava_st_ros.export.tensorrt.engines import prepare

        self._target, self._plugins = target, plugins
        self._tensorrt, self._settings = prepare(target, plugins)

    def build(self, folder: Path, graphs: Mapping[str, str], config: ModelConfig) -> Built:
        """Engines, in the place of the ONNX files, and the plugin library beside them."""
        from llava_st_ros.engine.cuda_device import CudaDevice
        from llava_st_ros.engine.machine import describe_machine
        from llava_st_ros.export.tensorrt.engines import build_engines

        assert self._target.tensorrt is not None
        paths = {name: folder / file for name, file in graphs.items()}
        for path in paths.values():
            rewrite(path, decomposed if self._plugins is None else as_plugin)
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
        return Built(files, machine, hashes)
