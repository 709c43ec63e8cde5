"""How many of a camera's images arrive, judged by their stamps.

A best-effort transport loses images without a trace: publisher and subscriber see no error. But
the stamps of the images that do arrive are multiples of the camera's interval apart.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from llava_st_ros.records import NANOSECONDS

IMAGES = 64  # the newest ones are judged
MIN_STEPS = 5  # fewer say nothing about the interval
PAUSE_SECONDS = 5.0  # a longer step is a pause of the camera, not a loss
SPREAD = 1.5  # steps up to this multiple of the shortest ones are single intervals


@dataclass(frozen=True)
class ArrivalRate:
    """Images per second of the stamps' clock: those that arrived, and those that were stamped."""

    arrived: float
    stamped: float

    @property
    def share(self) -> float:
        """The fraction of the images that arrived, in [0, 1]."""
        return min(1.0, self.arrived / self.stamped)


class ArrivalMeter:
    """Estimates an ArrivalRate from the stamps of received images. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: deque[int] = deque(maxlen=IMAGES)

    def add(self, stamp: int) -> None:
        """Add the stamp (ns) of an image, in order of arrival."""
        with self._lock:
            if self._stamps and self._stamps[-1] - stamp > PAUSE_SECONDS * NANOSECONDS:
                self._stamps.clear()  # another clock
            self._stamps.append(stamp)

    def clear(self) -> None:
        """Forget the stamps: those of another publisher follow."""
        with self._lock:
            self._stamps.clear()

    @property
    def rate(self) -> ArrivalRate | None:
        """The estimate, or None while there are too few images."""
        with self._lock:
            stamps = sorted(set(self._stamps))
        limit = PAUSE_SECONDS * NANOSECONDS
        steps = [b - a for a, b in pairwise(stamps) if b - a <= limit]
        if len(steps) < MIN_STEPS:
            return None
        # The interval is that of the shortest steps, but not of a single jittery one.
        shortest = sorted(steps)[len(steps) // 10]
        interval = median(step for step in steps if step <= SPREAD * shortest)
        # Rounded: a camera that is uneven or late by itself has lost nothing.
        stamped = sum(max(1, round(step / interval)) for step in steps)
        seconds = sum(steps) / NANOSECONDS
        return ArrivalRate(len(steps) / seconds, stamped / seconds)
