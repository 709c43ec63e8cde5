"""Pixels out of a camera message's bytes: pure functions, no message types.

The node and the bag reader both come here, so a bag replayed off-line gives the images that the
node would have seen. Encodings are those of ``sensor_msgs/image_encodings``.
"""

from __future__ import annotations

import cv2
import numpy as np

from llava_st_ros.errors import FrameError

# Encoding -> (bytes a pixel, the conversion to RGB).
_CONVERSIONS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
}
ENCODINGS = tuple(_CONVERSIONS)

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


def decode_raw(
    encoding: str, height: int, width: int, step: int, data: bytes | bytearray | np.ndarray
) -> np.ndarray:
    """The pixels of a ``sensor_msgs/Image`` -> RGB uint8 [height, width, 3], owning its memory.

    ``step`` is the length of a row in bytes; what of it lies beyond ``width`` pixels is padding.
    The last row's padding may be missing. FrameError: an unknown encoding, an empty image, a step
    shorter than a row, or too little data.
    """
    if encoding not in _CONVERSIONS:
        raise FrameError(
            f"image encoding {encoding!r}; expected one of {', '.join(ENCODINGS)}",
            "convert the stream",
        )
    channels, conversion = _CONVERSIONS[encoding]
    row = width * channels
    if height < 1 or width < 1:
        raise FrameError(f"an image of {width}x{height}; expected at least one pixel")
    if step < row:
        raise FrameError(f"step {step} for {width} pixels of {encoding}; expected at least {row}")
    array = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.ravel()
    needed = step * (height - 1) + row
    if array.dtype != np.uint8 or array.size < needed:
        raise FrameError(
            f"{array.nbytes} bytes for a {width}x{height} {encoding} image of step {step}"
            f"; expected at least {needed}",
            "check for a truncated message",
        )
    rows = np.lib.stride_tricks.as_strided(
        array, (height, width, channels), (step, channels, 1), writeable=False
    )
    if conversion is None:
        return rows.copy()
    return cv2.cvtColor(np.ascontiguousarray(rows), conversion)


def decode_compressed(data: bytes | bytearray | np.ndarray, format: str = "") -> np.ndarray:
    """The bytes of a ``sensor_msgs/CompressedImage`` (JPEG, PNG, ...) -> RGB uint8 [H, W, 3].

    ``format`` is the message's field, used in errors only: the bytes say what they are.
    FrameError: bytes that are no image, or a JPEG cut short, which the decoder would fill up with
    grey. (Damage within a JPEG's scan that keeps its length can't be told from a picture.)
    """
    raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    problem = "" if raw else "no bytes"
    image = None
    if raw.startswith(_JPEG_START) and raw.rfind(_JPEG_END) < raw.rfind(_JPEG_SCAN):
        # Inside a scan 0xFF is always escaped, so an end marker after it is the picture's own.
        problem = f"a JPEG cut short at {len(raw)} bytes"
    elif raw:
        try:
            image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
        problem = "" if image is not None else f"{len(raw)} bytes that are no readable image"
    if image is None:
        named = f" (format {format!r})" if format else ""
        raise FrameError((problem + named) + "; expected a whole JPEG or PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
