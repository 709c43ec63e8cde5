"""The time that one call may take, so that long work can be split over several calls."""

from __future__ import annotations

import math
import time

from llava_st_ros.errors import ConfigError
from llava_st_ros.training.loop.errors import TrainingInterrupted

OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: the same command can be run again


class TimeBudget:
    """Counts down from its construction.

    Args:
        minutes: The time; infinite by default.

    Raises:
        ConfigError: ``minutes`` is not above 0.
    """

    def __init__(self, minutes: float = math.inf) -> None:
        if not minutes > 0:
            raise ConfigError(f"the time budget is {minutes:g} minutes; expected a value above 0")
        self.minutes = minutes
        self._end = time.monotonic() + 60 * minutes

    @property
    def is_used_up(self) -> bool:
        return time.monotonic() >= self._end

    def check(self, done: str) -> None:
        """Raise TrainingInterrupted if the time is used up.

        Args:
            done: What was done, for the message.
        """
        if self.is_used_up:
            raise self.out_of_time(done)

    def out_of_time(self, done: str) -> TrainingInterrupted:
        """Return the error that says what was done when the time was used up."""
        return TrainingInterrupted(
            f"{self.minutes:g} minutes are used up: {done}",
            "run the same command again to resume",
            OUT_OF_TIME,
        )
