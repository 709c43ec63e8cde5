"""The installed TensorRT: which of its packages, and what it says when it refuses."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from llava_st_ros.errors import BackendError, EngineError

RUNTIMES = ("tensorrt", "tensorrt_rtx")


def load_tensorrt(name: str = "") -> ModuleType:
    """The installed TensorRT, or the one named (of RUNTIMES). Raises BackendError."""
    for candidate in (name,) if name else RUNTIMES:
        try:
            return importlib.import_module(candidate)
        except ImportError:
            continue
    raise BackendError(
        f"no {name or ' nor '.join(RUNTIMES)}; expected TensorRT's Python package",
        "install it: JetPack brings tensorrt; elsewhere pip install tensorrt or tensorrt-rtx-cu13",
    )


def error_logger(tensorrt: ModuleType) -> Any:
    """An ILogger whose ``said`` is TensorRT's last error, for the one line that the caller is told.
    It must outlive whatever it is given to."""

    class Logger(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.said = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.said = message

    return Logger()


def load_plugins(registry: Any, library: Path, logger: Any) -> None:
    """Register a plugin library's creators with the registry of a builder or a runtime, which lives
    as long as that. Raises EngineError where TensorRT does not take it."""
    try:
        handle = registry.load_library(str(library))
    except RuntimeError as error:
        handle, logger.said = None, str(error)
    if handle is None:
        raise EngineError(
            f"{library}: TensorRT does not load this plugin library: {logger.said}"
            "; expected the library built for this TensorRT and GPU",
            "build the package again on this machine, then export again",
        )
