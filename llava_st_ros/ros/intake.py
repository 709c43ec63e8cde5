"""From a camera's messages to frames: what is bad is refused and counted, one camera at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.records import NANOSECONDS, Frame
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.images import to_rgb

SIZE_CHANGE_FRAMES = 10


@dataclass(frozen=True)
class IntakeCounts:
    """Messages since the node was activated; the last three kinds were dropped as bad.

    ``skipped`` came faster than the frame rate asked for; ``unreadable`` had an unknown encoding,
    too little data, no pixels or a corrupt picture; ``resized`` did not have the stream's size;
    ``unstamped`` had the stamp zero.
    """

    received: int = 0
    skipped: int = 0
    unreadable: int = 0
    resized: int = 0
    unstamped: int = 0

    @property
    def dropped(self) -> int:
        return self.unreadable + self.resized + self.unstamped


class FrameIntake:
    """One camera's messages -> frames. Used by one callback; the counts by anyone.

    A frame of another size than the stream's is dropped; after SIZE_CHANGE_FRAMES in a row of one
    new size the camera is taken to have changed for good.
    """

    def __init__(self, camera: str, max_rate: float = 0.0) -> None:
        self.max_rate = max_rate  # Hz, by stamp; 0: every frame
        self._camera = camera
        self._size: tuple[int, int] | None = None
        self._odd_size: tuple[int, int] | None = None
        self._odd_frames = 0
        self._last: int | None = None
        self._lock = threading.Lock()
        self._counts = IntakeCounts()

    @property
    def counts(self) -> IntakeCounts:
        with self._lock:
            return self._counts

    @property
    def last_stamp(self) -> int | None:
        """Stamp (ns) of the last frame taken."""
        return self._last

    def read(self, message: Image | CompressedImage) -> Frame | None:
        """The message's frame; None where it was left out for the frame rate.

        Raises FrameError, after counting, for a message that is no good.
        """
        self._count(received=1)
        stamp = stamp_from_msg(message.header.stamp)
        if stamp == 0:
            self._count(unstamped=1)
            raise FrameError(
                "an image with the stamp zero; expected the time it was taken", "stamp it"
            )
        if self._too_soon(stamp):
            self._count(skipped=1)
            return None
        try:
            image = to_rgb(message)
        except FrameError:
            self._count(unreadable=1)
            raise
        self._check_size((image.shape[1], image.shape[0]))
        self._last = stamp
        return Frame(image, stamp, self._camera, message.header.frame_id)

    def _too_soon(self, stamp: int) -> bool:
        if not self.max_rate or self._last is None:
            return False
        # A late frame, or one of a clock set back, is the buffer's to judge. A tenth of slack takes
        # up the jitter of a camera that runs at just this rate.
        return 0 <= stamp - self._last < 0.9 * NANOSECONDS / self.max_rate

    def _check_size(self, size: tuple[int, int]) -> None:
        if self._size is None or size == self._size:
            self._size, self._odd_frames = size, 0
            return
        self._odd_frames = self._odd_frames + 1 if size == self._odd_size else 1
        self._odd_size = size
        if self._odd_frames >= SIZE_CHANGE_FRAMES:
            self._size, self._odd_frames = size, 0
            return
        self._count(resized=1)
        raise FrameError(
            f"a frame of {size[0]}x{size[1]} in a stream of {self._size[0]}x{self._size[1]}"
            "; expected one size a camera",
            f"after {SIZE_CHANGE_FRAMES} in a row the new size is taken over",
        )

    def _count(self, **more: int) -> None:
        with self._lock:
            counts = self._counts
            self._counts = replace(counts, **{k: getattr(counts, k) + n for k, n in more.items()})
