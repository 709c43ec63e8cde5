"""The fuzzed surfaces, each in a module of its own that is imported when it runs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from fuzz.surface import Surface

SURFACES = (
    "queries",
    "images",
    "configs",
    "manifests",
    "bags",
    "videos",
    "records",
    "benchmarks",
    "annotations",
    "page_changes",
    "answers",
)


def load_surface(name: str, folder: Path) -> Surface:
    """Make a surface that keeps its files in ``folder``."""
    surface: type[Surface] = import_module(f"fuzz.surfaces.{name}").SURFACE
    return surface(folder)
