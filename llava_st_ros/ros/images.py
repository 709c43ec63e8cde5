"""One function from an image message to RGB pixels, whichever library does the work.

ROS 2's cv_bridge converts where it is installed; NumPy and OpenCV where it is not (the wheels have
none). What is accepted and what is refused is decided here, the same for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import decode_compressed, decode_raw


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """An image message -> RGB uint8 [H, W, 3], owning its memory.

    Raw: rgb8, bgr8, mono8, rgba8, bgra8, rows padded to ``step`` or not (sensor_msgs/Image; the
    byte order of 8 bit pixels does not matter). Compressed: what OpenCV reads, JPEG and PNG at
    least. Raises FrameError for anything else, and for images that are empty or cut short.
    """
    return _BRIDGE.to_rgb(message)


class NumpyBridge:
    """The conversion with NumPy and OpenCV alone."""

    name = "numpy"

    def to_rgb(self, message: Image | CompressedImage) -> np.ndarray:
        if isinstance(message, CompressedImage):
            return decode_compressed(message.data, message.format)
        return decode_raw(
            message.encoding, message.height, message.width, message.step, message.data
        )


class CvBridge:
    """The conversion with ROS 2's cv_bridge; ImportError or TypeError where there is none.

    (A ROS 1 cv_bridge of the same name exists: it imports, but cannot read a ROS 2 message.)
    Compressed images go to the NumPy path, which sees that a JPEG is cut short; cv_bridge would
    give the rest in grey. So do raw rows whose ``step`` cv_bridge cannot express: it takes a row
    for a whole number of pixels.
    """

    name = "cv_bridge"

    def __init__(self) -> None:
        from cv_bridge import CvBridge as RosBridge

        self._bridge: Any = RosBridge()
        self._numpy = NumpyBridge()
        probe = Image(height=1, width=1, encoding="bgr8", step=3, data=bytes((1, 2, 3)))
        if self._bridge.imgmsg_to_cv2(probe, "rgb8").tolist() != [[[3, 2, 1]]]:
            raise TypeError("this cv_bridge does not read ROS 2 images")

    def to_rgb(self, message: Image | CompressedImage) -> np.ndarray:
        if isinstance(message, CompressedImage) or not self._serves(message):
            return self._numpy.to_rgb(message)
        try:
            return np.array(self._bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
        except Exception as error:
            raise FrameError((str(error)) + "; expected an image cv_bridge can read") from error

    @staticmethod
    def _serves(message: Image) -> bool:
        pixel = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4}.get(message.encoding, 0)
        return (
            pixel > 0
            and message.width > 0
            and message.height > 0
            and message.step == message.width * pixel
            and len(message.data) == message.step * message.height
        )


def choose_bridge() -> NumpyBridge | CvBridge:
    """cv_bridge where a working one is installed."""
    try:
        return CvBridge()
    except Exception:  # not installed, ROS 1's, or built for another NumPy: all the same to us
        return NumpyBridge()


_BRIDGE = choose_bridge()


def bridge_name() -> str:
    """Which library converts raw images: "cv_bridge" or "numpy"; shown in the diagnostics."""
    return _BRIDGE.name
