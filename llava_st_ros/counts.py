"""Counts in frozen dataclasses: replaced as one, so that readers see those of one moment."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

Counts = TypeVar("Counts")


def incremented(counts: Counts, **increments: int) -> Counts:
    """Return counts with some of them increased.

    Args:
        counts: A frozen dataclass of integers.
        increments: By how much, by the name of the count.
    """
    changes = {name: getattr(counts, name) + number for name, number in increments.items()}
    return replace(counts, **changes)  # type: ignore[type-var]
