"""Timeliness-F1 against precision and recall that are computed slot by slot."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from llava_st_ros.evaluation.streams.timeliness_f1 import timeliness, timeliness_counts


def f1_by_slots(slots: Sequence[float], responses: Sequence[float], most: int) -> float:
    """Return the F1: slots do not affect each other, each takes the first ``most`` responses."""

    def value(slot: float, response: float) -> float:
        if response < slot - 1.0:
            return math.exp(-0.5 * ((slot - 1.0 - response) / 1.48) ** 2)
        return math.exp(-0.5 * (max(0.0, response - slot - 1.0) / 0.74) ** 2)

    taken = [[r for r in sorted(responses) if value(s, r) >= 0.05][:most] for s in slots]
    best = [max(value(s, r) for r in of_slot) for s, of_slot in zip(slots, taken) if of_slot]
    false = len(set(responses) - {r for of_slot in taken for r in of_slot})
    if not best:
        return 0.0
    precision = sum(best) / (len(best) + false)
    recall = sum(best) / len(slots)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("most", [1, 5])
def test_random_responses(most: int) -> None:
    generator = random.Random(most)
    figures = []
    for _ in range(300):
        slots = [generator.uniform(0, 30) for _ in range(generator.randrange(1, 6))]
        responses = [generator.uniform(0, 30) for _ in range(generator.randrange(0, 12))]
        above, below = timeliness_counts(slots, responses, most)
        figures.append(above / below)
        assert figures[-1] == pytest.approx(f1_by_slots(slots, responses, most), abs=1e-12)
    assert min(figures) == 0.0 and max(figures) > 0.6


def test_the_tolerance() -> None:
    assert timeliness(-1.0) == timeliness(0.0) == timeliness(1.0) == 1.0
    # The response counts until T = 0.05: sqrt(2 ln 20) standard deviations outside the window.
    early, late = (1.0 + sigma * math.sqrt(2 * math.log(20)) for sigma in (1.48, 0.74))
    assert timeliness_counts([10.0], [10.0 - early + 1e-6], 5)[0] == pytest.approx(0.1, abs=1e-5)
    assert timeliness_counts([10.0], [10.0 - early - 1e-6], 5) == (0.0, 2.0)
    assert timeliness_counts([10.0], [10.0 + late - 1e-6], 5)[0] == pytest.approx(0.1, abs=1e-5)
    assert timeliness_counts([10.0], [10.0 + late + 1e-6], 5) == (0.0, 2.0)
