"""Checked values of a benchmark's records. Errors name the field, not the record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.benchmarks.samples import ReadingLog
from llava_st_ros.files.json_files import Invalid
from llava_st_ros.records import Box

MAX_FRAMES = 10_000_000  # of a video: four days at 30 frames per second
MAX_SIDE = 1_000_000  # pixels
_DIGITS = re.compile(r"[0-9]{1,18}")


def mapping(value: Any, name: str = "the record") -> Mapping[str, Any]:
    """Return a JSON object. Raises DataError for anything else."""
    if isinstance(value, Invalid):
        raise DataError(f"{name} is not valid JSON: {value.reason}")
    if not isinstance(value, Mapping):
        raise DataError(f"{name} is {shown(value)}; expected a JSON object")
    return value


def member(record: Mapping[str, Any], name: str) -> Any:
    """Return a field that must be there. Raises DataError."""
    if name not in record:
        raise DataError(f"the record has no {name}")
    return record[name]


def listed(value: Any, name: str, length: int | None = None) -> list[Any]:
    """Return a list, of a given length. Raises DataError for anything else."""
    if not isinstance(value, list) or length not in (None, len(value)):
        count = "" if length is None else f" of {length} values"
        raise DataError(f"{name} is {shown(value)}; expected a list{count}")
    return value


def text(value: Any, name: str) -> str:
    """Return a text with a visible character. Raises DataError for anything else."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} is {shown(value)}; expected text")
    return value.strip()


def integer(value: Any, name: str, minimum: int = 0, maximum: int = MAX_FRAMES) -> int:
    """Return an integer in a range; 3.0 is one. Raises DataError for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= maximum or value != int(value):
        raise DataError(f"{name} is {shown(value)}; expected an integer in {minimum}..{maximum}")
    return int(value)


def number(value: Any, name: str) -> float:
    """Return a finite number. Raises DataError for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise DataError(f"{name} is {shown(value)}; expected a number")
    return float(value)


def side(value: Any, name: str) -> int:
    """Return a width or height in pixels. Raises DataError for anything else."""
    return integer(value, name, 1, MAX_SIDE)


def frame_id(name: str) -> int:
    """Return the frame of a name in digits. Raises DataError for anything else."""
    if not isinstance(name, str) or not _DIGITS.fullmatch(name):
        raise DataError(f"{shown(name)} is not the number of a frame")
    return integer(int(name), f"frame {name}")


def media_path(value: Any, name: str) -> str:
    """Return a path below the media folder. Raises DataError for any other."""
    path = text(value, name)
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise DataError(f"{name} is {shown(path)}; expected a path below the media folder")
    return path


def box_of_corners(
    corners: tuple[float, float, float, float],
    name: str,
    size: tuple[int, int],
    log: ReadingLog,
    place: str,
) -> Box:
    """Return a box of pixels as fractions; one that is partly outside or empty is noted.

    Args:
        corners: x1, y1, x2, y2 in pixels.
        name: What it is called in messages.
        size: Width and height of the image.
        log: Where it is noted.
        place: The record.

    Raises:
        DataError: The corners are swapped, or the box is completely outside the image.
    """
    x1, y1, x2, y2 = corners
    (width, height), written = size, ", ".join(f"{v:g}" for v in corners)
    if x2 < x1 or y2 < y1:
        raise DataError(f"{name} has the corners ({written}): they are swapped")
    if x1 >= width or y1 >= height or x2 < 0 or y2 < 0:
        raise DataError(f"{name} ({written}) is outside the image of {width}x{height}")
    if x1 == x2 or y1 == y2:
        log.note("boxes without an area, whose IoU is 0", place)
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        log.note("boxes that are partly outside the image, used as they are", place)
    return Box.from_pixels(corners, width, height)


def box_xywh(value: Any, name: str, size: tuple[int, int], log: ReadingLog, place: str) -> Box:
    """Return a box that is given as left, top, width and height; see ``box_of_corners``."""
    x, y, width, height = (_pixels(v, name) for v in listed(value, name, 4))
    return box_of_corners((x, y, x + width, y + height), name, size, log, place)


def _pixels(value: Any, name: str) -> float:
    pixels = number(value, name)
    if abs(pixels) > MAX_SIDE:
        raise DataError(f"{name} contains {pixels:g}; expected pixels")
    return pixels


def box_of_edges(value: Any, name: str, size: tuple[int, int], log: ReadingLog, place: str) -> Box:
    """Return a box that is given as xmin, ymin, xmax and ymax; see ``box_of_corners``."""
    box = mapping(value, name)
    x1, y1, x2, y2 = (
        _pixels(box.get(edge), f"{name}.{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    return box_of_corners((x1, y1, x2, y2), name, size, log, place)
