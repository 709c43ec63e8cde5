"""Converts the images of one camera to frames; bad messages are rejected and counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.counts import incremented
from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import MAX_PIXELS
from llava_st_ros.records import NANOSECONDS, Frame
from llava_st_ros.ros.arrival_rate import ArrivalMeter
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.images import to_rgb
from llava_st_ros.streaming.frame_gate import FrameGate


@dataclass(frozen=True)
class IntakeCounts:
    """Numbers of messages since the node was activated.

    Attributes:
        received: All messages.
        skipped: Arrived faster than ``max_frame_rate``.
        unreadable: Dropped: unsupported encoding, truncated, empty, corrupt or too large.
        unrectified: Dropped: cannot be rectified as requested.
        resized: Dropped: another size than the stream's.
        unstamped: Dropped: the stamp was zero.
        misstamped: Dropped: the stamp is not a time (nanosec is a second or more).
    """

    received: int = 0
    skipped: int = 0
    unreadable: int = 0
    unrectified: int = 0
    resized: int = 0
    unstamped: int = 0
    misstamped: int = 0

    @property
    def dropped(self) -> int:
        return self.unreadable + self.unrectified + self.resized + self.unstamped + self.misstamped


class FrameIntake:
    """Converts one camera's messages to frames.

    A FrameGate decides which images become frames. ``read`` must be called by one thread at a time;
    ``counts`` may be read from any.

    Args:
        camera: Name of the camera.
        max_rate: Hz, by stamp; 0 for no limit. May be changed later.
        max_pixels: Larger images are rejected, before memory is taken for them.
        rectify: Returns an image, uint8 [H, W, 3], rectified, or raises FrameError; None to leave
            images as they are. Called from the threads of both methods.

    Attributes:
        arrivals: Judges by the stamps how many of the images arrive.
    """

    def __init__(
        self,
        camera: str,
        max_rate: float = 0.0,
        max_pixels: int = MAX_PIXELS,
        rectify: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.arrivals = ArrivalMeter()
        self._rectify = rectify
        self._max_pixels = max_pixels
        self._camera = camera
        self._gate = FrameGate(max_rate)
        self._lock = threading.Lock()
        self._counts = IntakeCounts()

    @property
    def max_rate(self) -> float:
        """Images above this rate in Hz, by stamp, are skipped; 0 for no limit."""
        return self._gate.max_rate

    @max_rate.setter
    def max_rate(self, rate: float) -> None:
        self._gate.max_rate = rate

    @property
    def counts(self) -> IntakeCounts:
        with self._lock:
            return self._counts

    def read(self, message: Image | CompressedImage) -> Frame | None:
        """Convert a message; None if it is skipped because of the frame rate.

        Raises:
            FrameError: The message is rejected. It has been counted.
        """
        self._count(received=1)
        arrival = time.monotonic_ns()
        stamp = self._checked_stamp(message.header.stamp)
        self.arrivals.add(stamp)
        if self._gate.is_too_soon(stamp):
            self._count(skipped=1)
            return None
        image = self._rectified(self._decoded(message))
        try:
            self._gate.accept(stamp, (image.shape[1], image.shape[0]))
        except FrameError:
            self._count(resized=1)
            raise
        return Frame(image, stamp, self._camera, message.header.frame_id, arrival)

    def read_skipped(self, message: Image | CompressedImage, arrival: int) -> Frame | None:
        """Convert a message that ``read`` skipped, from any thread; None if its size is another.

        Args:
            message: The message.
            arrival: When it arrived (ns), by ``time.monotonic_ns``.

        Raises:
            FrameError: The message is rejected. It has been counted.
        """
        image = self._decoded(message)
        if not self._gate.has_size((image.shape[1], image.shape[0])):
            return None
        image = self._rectified(image)
        stamp = stamp_from_msg(message.header.stamp)
        return Frame(image, stamp, self._camera, message.header.frame_id, arrival)

    def _decoded(self, message: Image | CompressedImage) -> np.ndarray:
        try:
            return to_rgb(message, self._max_pixels)
        except FrameError:
            self._count(unreadable=1)
            raise

    def _rectified(self, image: np.ndarray) -> np.ndarray:
        if self._rectify is None:
            return image
        try:
            return self._rectify(image)
        except FrameError:
            self._count(unrectified=1)
            raise

    def _checked_stamp(self, header_stamp: Time) -> int:
        stamp = stamp_from_msg(header_stamp)
        if stamp == 0:
            self._count(unstamped=1)
            raise FrameError(
                "the image has the stamp zero", "set header.stamp to the time of capture"
            )
        if header_stamp.nanosec >= NANOSECONDS:
            self._count(misstamped=1)
            raise FrameError(
                f"the image's stamp has nanosec {header_stamp.nanosec}; "
                f"expected less than {NANOSECONDS}"
            )
        return stamp

    def _count(self, **increments: int) -> None:
        with self._lock:
            self._counts = incremented(self._counts, **increments)
