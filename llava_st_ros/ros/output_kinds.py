"""The optional outputs of tracks in messages of other packages: which there are, and which can be
made on this machine. The parameter ``outputs`` chooses them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from llava_st_ros.errors import reason_of

ALL = "auto"  # every output whose package can be imported


@dataclass(frozen=True)
class OutputKind:
    """An optional output.

    Attributes:
        name: In the parameter ``outputs``, and the last part of the topic.
        package: The ROS package of the message.
        message: The message's name.
        needs_depth: Whether it exists only for cameras with depth.
    """

    name: str
    package: str
    message: str
    needs_depth: bool = False


KINDS = (
    OutputKind("detections", "vision_msgs", "Detection2DArray"),
    OutputKind("annotations", "foxglove_msgs", "ImageAnnotations"),
    OutputKind("image_markers", "visualization_msgs", "ImageMarker"),
    OutputKind("detections_3d", "vision_msgs", "Detection3DArray", needs_depth=True),
    OutputKind("markers", "visualization_msgs", "MarkerArray", needs_depth=True),
)
NAMES = tuple(kind.name for kind in KINDS)
NAMES_3D = tuple(kind.name for kind in KINDS if kind.needs_depth)


def import_messages(package: str) -> ModuleType:
    """Import a package's messages. Raises ImportError."""
    return importlib.import_module(f"{package}.msg")


@dataclass(frozen=True)
class Selection:
    """The outputs that the parameter ``outputs`` selects.

    Attributes:
        kinds: Those that can be made, each with the messages of its package.
        missing: Why the others cannot, one line for each package.
        is_requested: Whether one of the missing outputs was requested by name.
    """

    kinds: tuple[tuple[OutputKind, ModuleType], ...] = ()
    missing: tuple[str, ...] = ()
    is_requested: bool = False


def select(
    names: Iterable[str],
    has_depth: bool,
    load: Callable[[str], ModuleType] = import_messages,
) -> Selection:
    """Choose the outputs.

    Args:
        names: The parameter ``outputs``.
        has_depth: Whether a camera has depth.
        load: Imports the messages of a package.
    """
    requested = set(names)
    chosen = [
        kind
        for kind in KINDS
        if kind.name in requested or (ALL in requested and (has_depth or not kind.needs_depth))
    ]
    found: list[tuple[OutputKind, ModuleType]] = []
    problems: dict[str, str] = {}  # by package
    for kind in chosen:
        try:
            found.append((kind, load(kind.package)))
        except Exception as error:  # ImportError, or whatever a damaged package raises
            problems[kind.package] = reason_of(error)
    lines = []
    for package, reason in problems.items():
        lost = ", ".join(f"~/{kind.name}" for kind in chosen if kind.package == package)
        lines.append(f"{lost} cannot be published: {package} is not installed ({reason})")
    is_requested = any(kind.name in requested for kind in chosen if kind.package in problems)
    return Selection(tuple(found), tuple(lines), is_requested)
