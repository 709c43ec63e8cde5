"""One limit for several steps that wait."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time that several steps share, so that their waits do not add up.

    Args:
        seconds: Seconds from now.
        clock: Returns the current time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self._end - self._clock())
