"""Decodes JPEGs with libjpeg-turbo, and tells harmless damage from a missing part."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_headers import has_all_jpeg_scans, jpeg_orientation

# Warnings of libjpeg after which the image is complete. All others mean that a part is missing.
_HARMLESS_WARNINGS = re.compile(
    "extraneous bytes|JFIF revision|Adobe color|SOS parameters|progression sequence|ICC"
)


def decode_jpeg(data: bytes, *, upright: bool = False) -> np.ndarray:
    """Decode a JPEG, which may be followed by other data and may lack its end marker.

    Args:
        data: The file, of a size that was checked.
        upright: Apply the orientation in the EXIF data.

    Returns:
        uint8 [H, W, 3], or [H, W, 1] if the JPEG is gray.

    Raises:
        FrameError: A part of the image is missing, or the data are not a JPEG.
    """
    try:
        is_gray = simplejpeg.decode_jpeg_header(data)[2] == "Gray"
        pixels = _pixels(data, is_gray)
    except ValueError as error:
        raise FrameError(_problem(data, str(error))) from error
    return _turned(pixels, jpeg_orientation(data)) if upright else pixels


def _pixels(raw: bytes, is_gray: bool) -> np.ndarray:
    """Decode a JPEG to RGB or gray; ValueError if a part of the image is missing."""
    space = "GRAY" if is_gray else "RGB"
    try:
        return simplejpeg.decode_jpeg(raw, space)
    except ValueError as error:
        if _HARMLESS_WARNINGS.search(str(error)):
            return simplejpeg.decode_jpeg(raw, space, strict=False)
        if not str(error).startswith("Premature end of JPEG file"):
            raise
        # The end marker is missing. With one, libjpeg reports a scan that ends too early.
        completed = raw.removesuffix(b"\xff") + b"\xff\xd9"
        if not has_all_jpeg_scans(completed):
            raise
        return simplejpeg.decode_jpeg(completed, space)


def _problem(raw: bytes, message: str) -> str:
    if "remature end" in message:
        return f"the JPEG is truncated at {len(raw)} bytes"
    if message.startswith("Corrupt"):
        return f"the JPEG is corrupt: {message}"
    return f"{len(raw)} bytes are not a readable image: {message}; expected a complete JPEG or PNG"


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation: 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
