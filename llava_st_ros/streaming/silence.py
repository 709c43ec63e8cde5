"""Which cameras are silent: what the absence of images means, by their arrival.

Stamps are the clock of everything else, but stamps that do not arrive cannot show that time passes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from llava_st_ros.records import NANOSECONDS

CAMERA_TIMEOUT = 2.0  # seconds without a usable image; the default
INTERVALS = 9  # the latest between two images of a camera; their median is the usual one
MISSED = 3.0  # usual intervals without an image, before a slow camera is silent
MAX_STEP = NANOSECONDS  # that counts between two readings of the clock


class UsualInterval:
    """The usual interval between two images of a camera: a median, so that silences do not count.

    In any unit of time.
    """

    def __init__(self) -> None:
        self._intervals: deque[float] = deque(maxlen=INTERVALS)

    def add(self, interval: float) -> None:
        """Record an interval."""
        self._intervals.append(interval)

    @property
    def longest_pause(self) -> float:
        """How long the camera may send nothing; 0 before its second image."""
        intervals = tuple(self._intervals)  # another thread may add one
        return MISSED * median(intervals) if intervals else 0.0


@dataclass
class _Camera:
    seen_at: int  # time of the last image, ns
    usual: UsualInterval = field(default_factory=UsualInterval)


class SilenceMonitor:
    """Measures how long each camera has sent no usable image. Thread-safe.

    A camera is silent after the timeout, or after ``MISSED`` of its usual intervals if that is
    longer: a slow camera, a slowly played bag and a low ``max_frame_rate`` are not silences.

    The clock should stand still while no images can be expected: with simulated time, it is that of
    the simulation. ``silent`` must be called about twice per second: of the time between two
    readings of the clock, ``MAX_STEP`` counts at most, so that a process that was stopped, a
    machine that was suspended and a clock that jumps are not silences either.

    Args:
        clock: Returns the current time in ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: int | None = None  # the clock
        self._now = 0  # ns that count since the start
        self._cameras: dict[str, _Camera] = {}

    def arrived(self, camera: str) -> None:
        """Record a usable image of a camera."""
        with self._lock:
            now = self._advance()
            known = self._cameras.setdefault(camera, _Camera(now))
            if now > known.seen_at:
                known.usual.add(now - known.seen_at)
            known.seen_at = now

    def silent(self, timeout: int) -> Mapping[str, int]:
        """Return how long each silent camera has sent nothing (ns); cameras that never did are not.

        Args:
            timeout: After which a camera is silent (ns).
        """
        with self._lock:
            now = self._advance()
            return {
                name: now - camera.seen_at
                for name, camera in self._cameras.items()
                if now - camera.seen_at > max(timeout, camera.usual.longest_pause)
            }

    def clear(self) -> None:
        """Forget all cameras."""
        with self._lock:
            self._cameras.clear()

    def _advance(self) -> int:
        reading = self._clock()
        if self._read_at is not None:
            self._now += min(max(0, reading - self._read_at), MAX_STEP)
        self._read_at = reading
        return self._now
