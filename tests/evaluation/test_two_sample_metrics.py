"""AUROC and ECE over the samples of cases, against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.metric_definitions import (
    MetricDefinition,
    defined_metric,
    definition_of,
)
from llava_st_ros.evaluation.metric_kinds import AurocMetric, CalibrationErrorMetric
from llava_st_ros.evaluation.reliability import expected_calibration_error
from llava_st_ros.evaluation.results import Case

METRIC = AurocMetric("AUROC", "with", negatives="without")
ERROR = CalibrationErrorMetric("ECE", "with", negatives="without", lower_is_better=True)
SCORES = st.lists(st.sampled_from((0.0, 0.25, 0.5, 1.0)), max_size=4)


def case(positives: list[float], negatives: list[float]) -> Case:
    samples = {"with": tuple(positives), "without": tuple(negatives)}
    return Case("c", "s", "STVG", "q", samples={k: v for k, v in samples.items() if v})


def by_definition(cases: list[Case]) -> float:
    above = [v for c in cases for v in c.samples.get("with", ())]
    below = [v for c in cases for v in c.samples.get("without", ())]
    pairs = [1.0 if p > n else 0.5 * (p == n) for p in above for n in below]
    return sum(pairs) / len(pairs) if pairs else math.nan


def test_three_positives_against_two_negatives() -> None:
    # Of six pairs four are in order, one is tied.
    assert METRIC.value([case([0.9, 0.5, 0.2], [0.5, 0.1])]) == pytest.approx(4.5 / 6)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4), st.data())
def test_every_resample_is_the_mean_over_its_pairs(values, data) -> None:
    cases = [case(*pair) for pair in values]
    drawn = data.draw(st.lists(st.integers(0, len(cases) - 1), min_size=1, max_size=5))
    found = METRIC.of_resamples(cases, np.array([drawn]))[0]
    assert found == pytest.approx(by_definition([cases[i] for i in drawn]), nan_ok=True)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4), st.data())
def test_every_resamples_calibration_error_is_that_of_its_samples(values, data) -> None:
    cases = [case(*pair) for pair in values]
    drawn = data.draw(st.lists(st.integers(0, len(cases) - 1), min_size=1, max_size=5))
    chosen = [cases[i] for i in drawn]
    above = [v for c in chosen for v in c.samples.get("with", ())]
    below = [v for c in chosen for v in c.samples.get("without", ())]
    outcomes = np.array([True] * len(above) + [False] * len(below), bool)
    expected = expected_calibration_error(np.array(above + below), outcomes)
    found = ERROR.of_resamples(cases, np.array([drawn]))[0]
    assert found == pytest.approx(expected, nan_ok=True)


def test_it_applies_to_a_case_with_either_kind_of_sample() -> None:
    for positives, negatives in itertools.product(([], [0.5]), repeat=2):
        applies = METRIC.applies_to(case(positives, negatives))
        assert applies == bool(positives or negatives)
    assert math.isnan(METRIC.value([case([0.5], [])]))


def test_its_definition_makes_the_same_metric_again() -> None:
    definition = definition_of(METRIC)
    assert definition == MetricDefinition("auroc", "with", negatives="without")
    assert str(definition) == "AUROC of with against without"
    assert defined_metric(definition, "AUROC", METRIC.convention, "", False) == METRIC
    error = definition_of(ERROR)
    assert error == MetricDefinition("calibration_error", "with", negatives="without")
    assert str(error) == "ECE of with and without"
    assert defined_metric(error, "ECE", ERROR.convention, "", True) == ERROR
    for kind in ("auroc", "calibration_error"):
        with pytest.raises(DataError, match="no negatives"):
            MetricDefinition(kind, "with")
