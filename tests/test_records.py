"""Records: boxes in pixels, and the checks that a query passes when it is made."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import QueryError
from llava_st_ros.query_rules import MAX_QUERY_CHARACTERS
from llava_st_ros.query_runner import PreparedQuery
from llava_st_ros.records import Box, Query, Task
from llava_st_ros.streaming.frame_buffer import StreamState
from llava_st_ros.tracking.standing import StandingQuery

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
        ({"period": 0.0}, "period of query 'q' is 0.0; expected 0.01 to 86400 s"),
        ({"period": math.inf}, "period of query 'q' is inf"),
        ({"period": None}, "period of query 'q' is None; expected 0.01"),
        ({"expiry": math.nan}, "expiry of query 'q' is nan"),
        ({"expiry": "soon"}, "expiry of query 'q' is 'soon'; expected 0.01"),
        ({"text": "a\0b"}, r"text contains U\+0000, which cannot be sent in a message"),
        ({"text": "a\ud800"}, r"text contains U\+D800"),
        ({"id": "null"}, "the id is 'null', which YAML and JSON write for no value"),
        ({"id": "a\nb"}, r"the id 'a\\nb' contains U\+000A, which is not printable"),
        ({"id": "a\ud800"}, r"the id .* contains U\+D800"),
        ({"id": "  "}, "the id is blank"),
        ({"id": "x" * 201}, "the id has 201 characters; expected at most 200"),
        ({"id": 7}, "the id is 7; expected a str"),
        ({"cameras": "left"}, "cameras are 'left'; expected a list of names"),
        ({"cameras": 3}, "cameras are 3; expected a list"),
        ({"cameras": ["left", 3]}, "a camera of the query is 3"),
        ({"cameras": [""]}, "empty name"),
        ({"cameras": [f"c{i}" for i in range(101)]}, "101 cameras; expected at most 100"),
        ({"period": 1e-9}, "period of query 'q' is 1e-09; expected 0.01 to 86400 s"),
        ({"period": 5e-324}, "period of query 'q' is 5e-324"),
        ({"period": 1e300}, "period of query 'q' is 1e\\+300"),
        ({"period": True}, "period of query 'q' is True"),
        ({"period": 10**400}, "period of query 'q' is 1000"),
        ({"period": 10**5000}, "period of query 'q' is a int of too many digits"),
        ({"period": "1"}, "period of query 'q' is '1'"),
        ({"expiry": 1e300}, "expiry of query 'q' is 1e\\+300; expected 0.01 to 31622400 s"),
        ({"expiry": 10**400}, "expiry of query 'q' is 1000"),
        ({"expiry": 5e-324}, "expiry of query 'q' is 5e-324"),
        ({"expiry": 0}, "expiry of query 'q' is 0"),
        ({"span": (0, 10**400)}, r"span is \(0, 1000"),
        ({"span": 0.5}, "span 0.5 is not a pair"),
        ({"span": (True, True)}, r"span is \(True, True\)"),
        ({"box": (0, 0, 1, 1)}, r"box is \(0, 0, 1, 1\); expected a Box"),
        ({"box": Box(0, 0, 10**400, 1)}, r"box is \(0, 0, 1000"),
        ({"box": Box("a", 0, 1, 1)}, r"box is \('a', 0, 1, 1\)"),
        ({"task": ["STVG"]}, "task .* is unknown"),
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
    query = replace(
        QUERY, text=text, span=(0, 1), box=Box(0.0, 0.0, 1.0, 1.0), period=0.01, expiry=31_622_400
    )
    assert query.span == (0.0, 1.0)
    assert replace(QUERY, period=86_400, expiry=0.01, id="x" * 200).period == 86_400.0


def test_tasks_are_parsed_in_any_case() -> None:
    assert Task.parse(" stvg ") is Task.STVG
    with pytest.raises(QueryError, match="task 'which' is unknown"):
        Task.parse("which")


def test_numbers_of_every_type_become_floats() -> None:
    query = Query(
        "q",
        "the ball",
        cameras=["a", "b", "a"],  # type: ignore[arg-type]
        period=np.float32(2),  # type: ignore[arg-type]
        expiry=np.int64(3),  # type: ignore[arg-type]
        span=np.array([0, 1]),  # type: ignore[arg-type]
        box=Box(0, np.float32(0), 1, 1),  # type: ignore[arg-type]
    )
    assert query.cameras == ("a", "b")
    assert query.box is not None and query.span is not None
    box = query.box
    values = (query.period, query.expiry, *query.span, box.x1, box.y1, box.x2, box.y2)
    assert values == (2.0, 3.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0)
    assert {type(value) for value in values} == {float}
    hash(query)


@pytest.mark.parametrize("period", [0.01, 86_400.0])
@pytest.mark.parametrize("expiry", [0.01, 31_622_400.0])
def test_the_limits_are_within_the_range_of_the_clock(period: float, expiry: float) -> None:
    query = replace(QUERY, period=period, expiry=expiry)
    standing = StandingQuery(
        PreparedQuery(query, None, None),  # type: ignore[arg-type]
        GrounderConfig(),
        itertools.count(),
        itertools.count(),
    )
    now = 2**63
    stream = StreamState(generation=0, newest=now, now=now, has_history=True)
    standing.start(now)
    assert not standing.is_expired(now)
    assert standing.is_due("camera", stream)
    standing.mark_evaluated("camera", stream)
    assert not standing.is_due("camera", stream)
    assert standing.fail("camera", ValueError(), now).retry_at > now
    assert standing.tracks("camera", now) == ()


@pytest.mark.parametrize(
    ("task", "unused"),
    [
        (Task.STVG, "the span and the box"),
        (Task.SVG, "the box"),
        (Task.REG, "the span"),
        (Task.ELC, ""),
    ],
)
def test_inputs_that_the_task_does_not_use_are_noted(task: Task, unused: str) -> None:
    query = Query("q", "the red box", task, span=(0.0, 0.5), box=Box(0, 0, 1, 1))
    assert query.note == (f"task {task.value} does not use {unused}" if unused else "")
