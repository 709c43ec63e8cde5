"""Finds the installed TensorRT, keeps its last error, and loads plugin libraries."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from llava_st_ros.errors import BackendError, EngineError

RUNTIMES = ("tensorrt", "tensorrt_rtx")


def load_tensorrt(name: str = "") -> ModuleType:
    """Import the TensorRT package ``name``, or the first of RUNTIMES that is installed.

    Raises BackendError.
    """
    for candidate in (name,) if name else RUNTIMES:
        try:
            return importlib.import_module(candidate)
        except ImportError:
            continue
    raise BackendError(
        f"the Python package {name or ' or '.join(RUNTIMES)} is not installed",
        "JetPack comes with tensorrt; elsewhere: pip install tensorrt (or tensorrt-rtx-cu13)",
    )


def error_logger(tensorrt: ModuleType) -> Any:
    """Create an ILogger that keeps TensorRT's last error message in ``last_error``.

    It must outlive every object that it is passed to.
    """

    class Logger(tensorrt.ILogger):  # type: ignore[name-defined]  # a module known at run time
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.last_error = message

    return Logger()


def load_plugins(registry: Any, library: Path, logger: Any) -> None:
    """Register a plugin library with the plugin registry of a builder or a runtime.

    The library stays loaded as long as the registry. Raises EngineError when TensorRT rejects it.
    """
    try:
        handle = registry.load_library(str(library))
    except RuntimeError as error:
        handle, logger.last_error = None, str(error)
    if handle is None:
        raise EngineError(
            f"{library}: TensorRT cannot load this plugin library: {logger.last_error}",
            "build the package on this machine, for this TensorRT and GPU, then export again",
        )
