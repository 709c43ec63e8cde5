"""Rate-limited logging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LogThrottle:
    """Logs at most one line per key and period, and counts the suppressed ones.

    rclpy's own throttling has one counter per place in the code, which two cameras would share.

    Args:
        period: Seconds; may be changed later.
        clock: Returns the current time in seconds.
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def __call__(self, log: Callable[[str], object], key: str, line: str) -> None:
        """Log ``line``, unless a line with the same key was logged less than a period ago."""
        with self._lock:
            now = self._clock()
            last = self._last.get(key)
            if last is not None and now - last < self.period:
                self._suppressed[key] = self._suppressed.get(key, 0) + 1
                return
            self._last[key] = now
            suppressed = self._suppressed.pop(key, 0)
        log(f"{line} ({suppressed} more suppressed)" if suppressed else line)
