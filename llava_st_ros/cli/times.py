"""Stamps for people to read."""

from __future__ import annotations

import time

from llava_st_ros.records import NANOSECONDS

FIRST_CLOCK = 1_000_000_000  # seconds; earlier stamps are of a simulation, not of a clock


def time_text(stamp: int) -> str:
    """The local time of day of a stamp in ns; of a simulation, its seconds.

    >>> time_text(12_340_000_000)
    '12.3 s'
    """
    tenths = stamp // (NANOSECONDS // 10)
    seconds, tenth = divmod(tenths, 10)
    if seconds < FIRST_CLOCK:
        return f"{seconds}.{tenth} s"
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{tenth}"


def interval_text(start: int, end: int) -> str:
    """Two stamps and their distance; of a moment, one.

    >>> interval_text(1_000_000_000, 3_500_000_000)
    '1.0 s - 3.5 s (2.5 s)'
    """
    if start == end:
        return time_text(start)
    return f"{time_text(start)} - {time_text(end)} ({(end - start) / NANOSECONDS:.1f} s)"
