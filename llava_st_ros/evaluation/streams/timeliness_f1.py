"""Timeliness-F1 of SPOT-Bench (arXiv 2604.24317; github.com/dibschat/SPOT-Bench, evals/).

A response slot is a time at which a response is expected. A response at time t has the timeliness

    T(t) = 1                                         within the slot's window [a, b]
    T(t) = exp(-(t - a)^2 / (2 early^2))             before it
    T(t) = exp(-(t - b)^2 / (2 late^2))              after it

Responses are matched in order of time, each with every open slot of which its T is at least 0.05. A
slot is closed once K responses have matched it, and counts with the best T of them. With TP matched
slots, FP unmatched responses and FN unmatched slots:

    precision = sum of T / (TP + FP), recall = sum of T / (TP + FN), F1 = their harmonic mean
              = 2 sum of T / (2 TP + FP + FN)

Here a slot is the start of an annotated span and a response is the first publication of an event,
or of a track for tasks without events. The tolerances are those of SPOT-Bench's detection of action
boundaries. As there, only queries with slots count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HALF_WINDOW = 1.0  # s, to both sides of the slot's time
EARLY, LATE = 1.48, 0.74  # s, standard deviations before and after the window
MIN_TIMELINESS = 0.05


def timeliness(delay: float) -> float:
    """Return T of a response.

    Args:
        delay: From the slot's time to the response, in seconds.

    >>> timeliness(1.0), round(timeliness(1.74), 3), round(timeliness(-2.48), 3)
    (1.0, 0.607, 0.607)
    """
    early, late = -HALF_WINDOW - delay, delay - HALF_WINDOW
    if early > 0:
        return math.exp(-(early**2) / (2 * EARLY**2))
    return math.exp(-(late**2) / (2 * LATE**2)) if late > 0 else 1.0


def timeliness_counts(
    slots: Sequence[float], responses: Sequence[float], most: int
) -> tuple[float, float]:
    """Return 2 sum of T and 2 TP + FP + FN, the fraction that is the F1.

    Args:
        slots: The times of the slots in seconds.
        responses: The times of the responses in seconds.
        most: K, the number of responses after which a slot is closed.

    >>> timeliness_counts([10.0, 20.0], [10.5, 15.0], 5)  # one matched, one false, one missed
    (2.0, 4.0)
    >>> timeliness_counts([10.0], [9.5, 10.0, 11.5], 5)  # the best of three
    (2.0, 2.0)
    >>> timeliness_counts([10.0], [9.5, 10.0, 11.5], 1)  # two too many
    (2.0, 4.0)
    """
    best = [0.0] * len(slots)
    matches = [0] * len(slots)
    false = 0
    for response in sorted(responses):
        is_matched = False
        for slot, time in enumerate(slots):
            value = timeliness(response - time)
            if matches[slot] < most and value >= MIN_TIMELINESS:
                matches[slot] += 1
                best[slot] = max(best[slot], value)
                is_matched = True
        false += not is_matched
    matched = sum(count > 0 for count in matches)
    return 2 * sum(best), float(2 * matched + false + len(slots) - matched)
