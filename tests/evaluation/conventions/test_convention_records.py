"""The samples and predictions that conventions read."""

from __future__ import annotations

import doctest
import math

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.conventions import records
from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Dataset, Prediction
from llava_st_ros.records import Box, Task

FULL = Box(0.0, 0.0, 1.0, 1.0)


def sample(**changes: object) -> BenchmarkSample:
    values = {
        "id": "v#1",
        "dataset": Dataset.OTHER,
        "task": Task.STVG,
        "num_frames": 10,
        "fps": 5.0,
        "width": 100,
        "height": 50,
    }
    return BenchmarkSample(**(values | changes))  # type: ignore[arg-type]


def test_doctests() -> None:
    assert doctest.testmod(records).failed == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "v#1: 0 frames of 100 x 50 pixels"),
        ({"width": 0}, "10 frames of 0 x 50 pixels"),
        ({"fps": math.nan}, "nan frames per second"),
        ({"span": (3, 10)}, "the span is frames 3 to 10 of 10"),
        ({"span": (4, 3)}, "the span is frames 4 to 3 of 10"),
        ({"segment": (-1, 3)}, "the segment is frames -1 to 3 of 10"),
        ({"fractions": (0.5, 0.25)}, r"the span is \(0.5, 0.25\) of the video"),
        ({"fractions": (0.5, math.nan)}, r"the span is \(0.5, nan\) of the video"),
        ({"boxes": {10: FULL}}, "a box at frame 10 of 10"),
        ({"boxes": {1: Box(0.0, 0.0, math.nan, 1.0)}}, "frame 1 has the box"),
        ({"boxes": {1: Box(0.5, 0.0, 0.25, 1.0)}}, "frame 1 has the box"),
    ],
)
def test_a_sample_that_cannot_be_scored_is_an_error(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample(**changes)


def test_fractions_are_of_the_segment() -> None:
    assert sample(span=(4, 6), segment=(4, 8)).span_fractions() == (0.0, 0.5)
    assert sample(span=(0, 9)).span_fractions() == (0.0, 1.0)
    assert sample(span=(3, 3), segment=(3, 3)).span_fractions() == (0.0, 0.0)
    assert sample(span=(0, 9), fractions=(0.1, 0.2)).span_fractions() == (0.1, 0.2)
    assert sample().span_fractions() is None
    assert Prediction((4, 6)).span_fractions((4, 8)) == (0.0, 0.5)


def test_boxes_are_interpolated_between_shown_frames_inside_the_span() -> None:
    a, b = Box(0.0, 0.0, 0.2, 0.2), Box(0.4, 0.0, 0.6, 1.0)
    prediction = Prediction((2, 6), {2: a, 6: b, 8: b}, shown=(0, 2, 6, 8))
    found = prediction.boxes_at(range(10))
    assert sorted(found) == [2, 3, 4, 5, 6]  # frames 7 and 8 are outside the span
    x1, y1, x2, y2 = (getattr(found[3], name) for name in ("x1", "y1", "x2", "y2"))
    assert (x1, y1, x2, y2) == pytest.approx((0.1, 0.0, 0.3, 0.4))
    assert found[6] == b


def test_a_shown_frame_without_a_box_is_not_bridged() -> None:
    a, b = Box(0.0, 0.0, 0.2, 0.2), Box(0.4, 0.0, 0.6, 1.0)
    found = Prediction((0, 8), {0: a, 8: b}, shown=(0, 4, 8)).boxes_at(range(9))
    assert found == {0: a, 1: a, 2: a, 3: a, 5: b, 6: b, 7: b, 8: b}
    unknown = Prediction((0, 8), {0: a, 8: b})
    assert sorted(unknown.boxes_at(range(9))) == list(range(9))


def test_frames_beside_the_first_and_last_box_have_the_nearest_one() -> None:
    given_span = Prediction(None, {4: FULL}, shown=(0, 4, 8))
    assert sorted(given_span.boxes_at(range(12))) == [1, 2, 3, 4, 5, 6, 7]
    assert Prediction().boxes_at(range(3)) == {}
