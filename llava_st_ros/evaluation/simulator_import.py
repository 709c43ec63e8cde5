"""Imports of the simulator, which needs MuJoCo and headless OpenGL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llava_st_ros.errors import DataError


@contextmanager
def requires_simulator() -> Iterator[None]:
    """Raise DataError, with what to install, if an import fails in the block."""
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"the simulator cannot be imported: {error}",
            "install mujoco, with EGL or OSMesa",
        ) from error
