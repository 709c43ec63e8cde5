"""Decodes camera messages to RGB: pure functions, independent of message types.

The node and the bag reader share them, so an offline replay yields exactly the images that the
node receives. Encodings are those of ``sensor_msgs/image_encodings``.
"""

from __future__ import annotations

import cv2
import numpy as np

from llava_st_ros.errors import FrameError

# Encoding -> (bytes per pixel, OpenCV conversion to RGB).
_CONVERSIONS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
}
ENCODINGS = tuple(_CONVERSIONS)
PIXEL_BYTES = {encoding: size for encoding, (size, _) in _CONVERSIONS.items()}

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


def decode_raw(
    encoding: str, height: int, width: int, step: int, data: bytes | bytearray | np.ndarray
) -> np.ndarray:
    """Decode the pixels of a ``sensor_msgs/Image``.

    Args:
        encoding: One of ENCODINGS.
        height: Rows of the image.
        width: Columns of the image.
        step: Bytes per row. Bytes beyond ``width`` pixels are padding, which the last row may lack.
        data: The message's data.

    Returns:
        RGB uint8 [height, width, 3], which owns its memory.

    Raises:
        FrameError: The encoding is unsupported, the image is empty, ``step`` is shorter than a row,
            or there is too little data.
    """
    if encoding not in _CONVERSIONS:
        raise FrameError(
            f"image encoding {encoding!r} is not supported; expected one of {', '.join(ENCODINGS)}"
        )
    channels, conversion = _CONVERSIONS[encoding]
    row = width * channels
    if height < 1 or width < 1:
        raise FrameError(f"the image is empty ({width}x{height})")
    if step < row:
        raise FrameError(f"step {step} is less than the {row} bytes of {width} {encoding} pixels")
    array = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.ravel()
    needed = step * (height - 1) + row
    if array.dtype != np.uint8 or array.size < needed:
        raise FrameError(
            f"{array.nbytes} bytes are too few for a {width}x{height} {encoding} image with step "
            f"{step}; expected at least {needed}"
        )
    rows = np.lib.stride_tricks.as_strided(
        array, (height, width, channels), (step, channels, 1), writeable=False
    )
    if conversion is None:
        return rows.copy()
    return cv2.cvtColor(np.ascontiguousarray(rows), conversion)


def decode_compressed(data: bytes | bytearray | np.ndarray, format: str = "") -> np.ndarray:
    """Decode the data of a ``sensor_msgs/CompressedImage`` (JPEG, PNG, ...).

    Corruption inside a JPEG's scan that keeps its length cannot be detected.

    Args:
        data: The message's data.
        format: The message's format, for error messages only; the data identifies its own format.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        FrameError: The data is not a readable image, or a truncated JPEG, whose missing rows OpenCV
            would fill with gray.
    """
    raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    problem = "" if raw else "the image has no data"
    image = None
    if raw.startswith(_JPEG_START) and raw.rfind(_JPEG_END) < raw.rfind(_JPEG_SCAN):
        # 0xFF is escaped inside a scan, so an end marker after its start ends the image itself.
        problem = f"the JPEG is truncated at {len(raw)} bytes"
    elif raw:
        try:
            image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
        problem = "" if image is not None else f"{len(raw)} bytes are not a readable image"
    if image is None:
        named = f" (format {format!r})" if format else ""
        raise FrameError(f"{problem}{named}; expected a complete JPEG or PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
