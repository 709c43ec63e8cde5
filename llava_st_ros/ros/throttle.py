"""Bounded logging: the same complaint at most once a period, and how many were left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Throttle:
    """Passes a line on at most once a period for each key, on the machine's steady clock.

    (rclpy's own throttling counts by place in the code: two cameras would share one.)
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.period = period  # seconds; may be changed
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def __call__(self, log: Callable[[str], object], key: str, line: str) -> None:
        """Log ``line`` unless ``key`` was logged less than a period ago."""
        with self._lock:
            now = self._clock()
            last = self._last.get(key)
            if last is not None and now - last < self.period:
                self._held[key] = self._held.get(key, 0) + 1
                return
            self._last[key] = now
            held = self._held.pop(key, 0)
        log(f"{line} ({held} more since)" if held else line)
