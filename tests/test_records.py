"""Records: boxes in pixels, and the checks that a query passes when it is made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from llava_st_ros.errors import QueryError
from llava_st_ros.records import MAX_QUERY_CHARACTERS, Box, Query, Task

QUERY = Query("q", "the ball")


def test_a_box_converts_to_pixels_and_back() -> None:
    box = Box(0.25, 0.5, 0.75, 1.0)
    assert box.to_pixels(200, 100) == (50.0, 50.0, 150.0, 100.0)
    assert Box.from_pixels((50.0, 50.0, 150.0, 100.0), 200, 100) == box


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": 7}, "the query's text is a int; expected a str"),
        ({"text": "x" * (MAX_QUERY_CHARACTERS + 1)}, "2001 characters; expected at most 2000"),
        ({"task": "NONSENSE"}, "task 'NONSENSE' is unknown; expected one of STVG, SVG"),
        ({"period": 0.0}, "period of query 'q' is 0.0; expected seconds > 0"),
        ({"period": math.inf}, "period of query 'q' is inf"),
        ({"period": None}, "period of query 'q' is None; expected seconds > 0"),
        ({"expiry": math.nan}, "expiry of query 'q' is nan"),
        ({"expiry": "soon"}, "expiry of query 'q' is soon; expected seconds > 0"),
        ({"span": (0.6, 0.5)}, r"span is \(0.6, 0.5\); expected 0 <= start <= end <= 1"),
        ({"span": (0.0, math.nan)}, r"span is \(0.0, nan\)"),
        ({"span": (0.5,)}, r"span \(0.5,\) is not a pair of numbers; give"),
        ({"span": "ab"}, "span 'ab' is not a pair of numbers"),
        ({"box": Box(0.0, 0.0, 1.5, 1.0)}, r"box is \(0.0, 0.0, 1.5, 1.0\); expected 0 <= x1"),
        ({"box": Box(0.0, 0.4, 1.0, 0.3)}, "box is"),
    ],
)
def test_an_invalid_query_cannot_be_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        replace(QUERY, **values)


def test_the_limits_of_a_query_are_valid() -> None:
    text = "x" * MAX_QUERY_CHARACTERS
    query = replace(QUERY, text=text, span=(0, 1), box=Box(0.0, 0.0, 1.0, 1.0), period=1e-9)
    assert query.span == (0.0, 1.0)


def test_tasks_are_parsed_in_any_case() -> None:
    assert Task.parse(" stvg ") is Task.STVG
    with pytest.raises(QueryError, match="task 'which' is unknown"):
        Task.parse("which")
