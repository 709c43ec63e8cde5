"""Which images of a camera become frames: at most so many per second, and of one size."""

from __future__ import annotations

from llava_st_ros.errors import FrameError
from llava_st_ros.records import NANOSECONDS

MAX_FRAME_RATE = 15.0  # Hz; images above it are skipped by default
TRACK_RATE = 60.0  # Hz; to images above it no track is carried by default
SIZE_CHANGE_FRAMES = 10  # consecutive frames of a new size after which it is accepted
JITTER = 0.9  # of the shortest interval: tolerates a camera at exactly the maximum rate


class FrameGate:
    """Skips images that come too fast or change their size, in the order of arrival.

    A frame whose size differs from the stream's is rejected; after SIZE_CHANGE_FRAMES consecutive
    frames of the same new size, that becomes the stream's. Not thread-safe.

    Args:
        max_rate: Hz, by stamp; 0 for no limit. May be changed later.
    """

    def __init__(self, max_rate: float = 0.0) -> None:
        self.max_rate = max_rate
        self._last_stamp: int | None = None
        self._size: tuple[int, int] | None = None
        self._new_size: tuple[int, int] | None = None
        self._new_size_frames = 0

    def is_too_soon(self, stamp: int) -> bool:
        """Whether a stamp (ns) follows the last accepted one faster than ``max_rate``.

        Late frames, repeated stamps and stream resets are left to the frame buffer.
        """
        return _is_too_soon(stamp, self._last_stamp, self.max_rate)

    def accept(self, stamp: int, size: tuple[int, int]) -> None:
        """Accept the image with a stamp (ns) and size (width, height) as a frame.

        Raises:
            FrameError: It has another size than the stream.
        """
        self._check_size(size)
        self._last_stamp = stamp

    def has_size(self, size: tuple[int, int]) -> bool:
        """Whether a size (width, height) is the stream's."""
        return size == self._size

    def _check_size(self, size: tuple[int, int]) -> None:
        if self._size is None or size == self._size:
            self._size, self._new_size_frames = size, 0
            return
        self._new_size_frames = self._new_size_frames + 1 if size == self._new_size else 1
        self._new_size = size
        if self._new_size_frames >= SIZE_CHANGE_FRAMES:
            self._size, self._new_size_frames = size, 0
            return
        raise FrameError(
            f"a frame of {size[0]}x{size[1]} in a stream of {self._size[0]}x{self._size[1]}",
            f"a new size is accepted after {SIZE_CHANGE_FRAMES} consecutive frames",
        )


class TrackRates:
    """Selects the frames of each camera to which tracks are carried. Not thread-safe.

    Args:
        max_rate: Hz, by stamp; 0 for none at all. May be changed later.
    """

    def __init__(self, max_rate: float = TRACK_RATE) -> None:
        self.max_rate = max_rate
        self._last: dict[str, int] = {}

    def is_due(self, camera: str, stamp: int) -> bool:
        """Whether tracks are to be carried to a frame with a stamp (ns); it is remembered then."""
        if not self.max_rate:
            return False
        if _is_too_soon(stamp, self._last.get(camera), self.max_rate):
            return False
        self._last[camera] = stamp
        return True


def _is_too_soon(stamp: int, last: int | None, max_rate: float) -> bool:
    """Whether a stamp (ns) follows another one faster than a rate (Hz, 0 for no limit)."""
    if not max_rate or last is None:
        return False
    return 0 < stamp - last < JITTER * NANOSECONDS / max_rate
