"""Reliability bins and ECE, worked out by hand."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.evaluation import reliability as module
from llava_st_ros.evaluation.reliability import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    reliability,
)


def test_docstring_examples() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_two_bins_by_hand() -> None:
    probabilities = np.array([0.0, 0.1, 0.5, 0.8, 1.0])
    outcomes = np.array([False, True, True, False, True])
    first, second = reliability(probabilities, outcomes, bins=2)
    assert first == ReliabilityBin(2, 0.05, 0.5)
    assert (second.count, second.frequency) == (3, pytest.approx(2 / 3))
    assert second.probability == pytest.approx(2.3 / 3)
    # 2/5 of a gap of 0.45 and 3/5 of one of 0.1.
    assert expected_calibration_error(probabilities, outcomes, bins=2) == pytest.approx(0.24)
    assert brier_score(probabilities, outcomes) == pytest.approx((0.81 + 0.25 + 0.64) / 5)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 12))
def test_the_bins_contain_every_prediction(pairs, bins: int) -> None:
    probabilities = np.array([p for p, _ in pairs])
    outcomes = np.array([outcome for _, outcome in pairs])
    found = reliability(probabilities, outcomes, bins)
    assert sum(each.count for each in found) == len(pairs)
    mean = sum(each.count * each.probability for each in found) / len(pairs)
    assert mean == pytest.approx(probabilities.mean())
    # The gap of the means is a lower bound, reached with a single bin.
    gap = abs(probabilities.mean() - outcomes.mean())
    error = expected_calibration_error(probabilities, outcomes, bins)
    assert gap - 1e-9 <= error <= 1
    assert expected_calibration_error(probabilities, outcomes, 1) == pytest.approx(gap)


def test_without_predictions_there_is_no_error() -> None:
    assert math.isnan(expected_calibration_error(np.empty(0), np.empty(0, bool)))
