"""Rate-limited logging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

MAX_KEYS = 256  # keys remembered; keys may contain names that users choose


class Logger(Protocol):
    """The methods of rclpy's logger that are used here."""

    def warning(self, message: str) -> object: ...

    def error(self, message: str) -> object: ...


class LogThrottle:
    """Logs at most one line per severity, key and period, and counts the suppressed ones.

    rclpy's own throttling has one counter per place in the code, which two cameras would share.
    rclpy also raises ValueError when one source line logs at two severities, so each severity is a
    method with its own call. For the same reason, do not pass a logger's methods to functions.

    Args:
        logger: Where lines are logged.
        period: Seconds; may be changed later.
        clock: Returns the current time in seconds.
    """

    def __init__(
        self, logger: Logger, period: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.period = period
        self._logger, self._clock = logger, clock
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], float] = {}  # oldest first
        self._suppressed: dict[tuple[str, str], int] = {}
        self._evicted = 0  # suppressed lines of keys that are no longer remembered

    def warning(self, key: str, line: str) -> None:
        """Log a warning, unless one with this key was logged less than a period ago."""
        text = self._admit(("warning", key), line)
        if text is not None:
            self._logger.warning(text)

    def error(self, key: str, line: str) -> None:
        """Log an error, unless one with this key was logged less than a period ago."""
        text = self._admit(("error", key), line)
        if text is not None:
            self._logger.error(text)

    def _admit(self, key: tuple[str, str], line: str) -> str | None:
        """Return the line with the count of those suppressed before it; None to suppress it."""
        with self._lock:
            now = self._clock()
            last = self._last.get(key)
            if last is not None and now - last < self.period:
                self._suppressed[key] = self._suppressed.get(key, 0) + 1
                return None
            self._last.pop(key, None)
            self._last[key] = now
            if len(self._last) > MAX_KEYS:
                oldest = next(iter(self._last))
                del self._last[oldest]
                self._evicted += self._suppressed.pop(oldest, 0)
            suppressed = self._suppressed.pop(key, 0) + self._evicted
            self._evicted = 0
        return f"{line} ({suppressed} more suppressed)" if suppressed else line
