"""A clock that a test sets."""

from __future__ import annotations


class ManualClock:
    """Returns ``now``, in seconds, until the test changes it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
