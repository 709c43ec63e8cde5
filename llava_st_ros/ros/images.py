"""Converts image messages to RGB pixels, with cv_bridge if installed, else NumPy and OpenCV, and to
JPEGs for viewers.

Which images are accepted does not depend on the library. (The ROS wheels have no cv_bridge.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import (
    MAX_PIXELS,
    PIXEL_BYTES,
    complete_jpeg,
    decode_message,
)
from llava_st_ros.media.jpeg_encoding import encode_jpeg

JPEG_QUALITY = 80  # of images that are not JPEGs already
_CV_BRIDGE_ENCODINGS = ("rgb8", "bgr8", "mono8", "rgba8", "bgra8")


def to_rgb(message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Convert an image message to RGB.

    Args:
        message: A raw image in one of ``image_decoding.ENCODINGS``, with any row padding, or a
            compressed one (JPEG, PNG and others).
        max_pixels: Bound of the image's size, checked before memory is taken.

    Returns:
        uint8 [H, W, 3] that owns its memory.

    Raises:
        FrameError: The encoding is unsupported, or the image is empty, truncated or too large.
    """
    return _BRIDGE.to_rgb(message, max_pixels)


def to_jpeg(message: Image | CompressedImage, quality: int = JPEG_QUALITY) -> bytes:
    """Convert an image message to a JPEG. A complete one is passed on as it is.

    Raises:
        FrameError: As ``to_rgb``.
    """
    if isinstance(message, CompressedImage):
        data = complete_jpeg(message.data, message.format)
        if data is not None:
            return data
    return encode_jpeg(to_rgb(message), quality)


class NumpyBridge:
    """The conversion with NumPy and OpenCV alone."""

    name = "numpy"

    def to_rgb(self, message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        return decode_message(message, max_pixels=max_pixels)


class CvBridge:
    """The conversion with ROS 2's cv_bridge.

    Other messages are left to NumpyBridge: compressed images, because cv_bridge fills the missing
    part of a truncated JPEG with gray; raw images whose ``step`` is not exactly a row of pixels,
    and encodings, that cv_bridge does not support in every ROS distribution.

    Raises:
        ImportError: There is no cv_bridge.
        TypeError: The cv_bridge is ROS 1's, which imports but cannot read ROS 2 messages.
    """

    name = "cv_bridge"

    def __init__(self) -> None:
        from cv_bridge import CvBridge as RosBridge

        self._bridge: Any = RosBridge()
        self._numpy = NumpyBridge()
        probe = Image(height=1, width=1, encoding="bgr8", step=3, data=bytes((1, 2, 3)))
        if self._bridge.imgmsg_to_cv2(probe, "rgb8").tolist() != [[[3, 2, 1]]]:
            raise TypeError("this cv_bridge does not read ROS 2 images")

    def to_rgb(self, message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        if isinstance(message, CompressedImage) or not self._supports(message, max_pixels):
            return self._numpy.to_rgb(message, max_pixels)
        try:
            return np.array(self._bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
        except Exception as error:
            raise FrameError(f"cv_bridge cannot read the image: {error}") from error

    @staticmethod
    def _supports(message: Image, max_pixels: int) -> bool:
        pixel = PIXEL_BYTES.get(message.encoding, 0)
        return (
            message.encoding in _CV_BRIDGE_ENCODINGS
            and 0 < message.width * message.height <= max_pixels
            and message.step == message.width * pixel
            and len(message.data) == message.step * message.height
        )


def choose_bridge() -> NumpyBridge | CvBridge:
    """Return a CvBridge if a working cv_bridge is installed, else a NumpyBridge."""
    try:
        return CvBridge()
    except Exception:  # not installed, ROS 1's, or built for another NumPy
        return NumpyBridge()


_BRIDGE = choose_bridge()


def bridge_name() -> str:
    """Return the library that converts raw images: "cv_bridge" or "numpy"."""
    return _BRIDGE.name
