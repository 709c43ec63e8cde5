"""Metrics against hand-computed values and a second, naive formulation."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.evaluation import metrics
from llava_st_ros.records import Box

coordinate = st.floats(0, 1, allow_nan=False)
boxes = st.builds(
    lambda a, b, c, d: Box(min(a, b), min(c, d), max(a, b), max(c, d)),
    *[coordinate] * 4,
)
tubes = st.dictionaries(st.integers(0, 9), st.none() | boxes, max_size=10)
spans = st.tuples(st.integers(0, 19), st.integers(0, 19)).map(lambda s: (min(s), max(s)))


def test_docstring_examples() -> None:
    results = doctest.testmod(metrics)
    assert results.failed == 0
    assert results.attempted >= 8


@given(spans, spans)
def test_span_iou_counts_frames(a: tuple[int, int], b: tuple[int, int]) -> None:
    frames_a, frames_b = set(range(a[0], a[1] + 1)), set(range(b[0], b[1] + 1))
    iou = len(frames_a & frames_b) / len(frames_a | frames_b)
    assert metrics.span_iou(metrics.frame_span(*a), metrics.frame_span(*b)) == pytest.approx(iou)


@given(tubes, tubes)
def test_viou_and_siou_match_their_formulas(predicted: dict, expected: dict) -> None:
    total, common, union = 0.0, 0, 0
    for t in range(10):
        union += t in predicted or t in expected
        if t in predicted and t in expected:
            common += 1
            if predicted[t] is not None and expected[t] is not None:
                total += predicted[t].iou(expected[t])
    assert metrics.viou(predicted, expected) == pytest.approx(total / union if union else 0.0)
    assert metrics.siou(predicted, expected) == pytest.approx(total / common if common else 0.0)
    assert 0.0 <= metrics.viou(predicted, expected) <= metrics.siou(predicted, expected) + 1e-12


def test_frame_without_box_costs_as_much_as_wrong_box() -> None:
    box, elsewhere = Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 1, 1)
    expected = {0: box, 1: box}
    assert metrics.viou({0: box, 1: None}, expected) == 0.5
    assert metrics.viou({0: box, 1: elsewhere}, expected) == 0.5
    assert metrics.viou({}, expected) == 0.0


def test_no_values_have_the_mean_0() -> None:
    assert metrics.mean([]) == 0.0
