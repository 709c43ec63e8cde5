"""Numbers in messages: rclpy does not check them (in Jazzy by default) and copies their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rclpy.serialization import deserialize_message, serialize_message

from llava_st_ros import msg
from llava_st_ros.errors import QueryError
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    Event,
    EventState,
    Grounding,
    Query,
    Span,
    Task,
    Track,
    TrackState,
)
from llava_st_ros.ros import conversions
from llava_st_ros.text.query_parser import parse_queries

pytestmark = pytest.mark.ros
ONE = np.int64(1)
HALF: Any = np.float32(0.5)


def received(message: Any) -> Any:
    """The message as a subscriber gets it."""
    return deserialize_message(serialize_message(message), type(message))


def test_numbers_of_every_type_arrive_in_our_messages() -> None:
    whole = Box(0, 0, 1, 1)
    tube = BoxTube((1, ONE + 10**9), (whole, Box(0, HALF, ONE, 1)))
    track = Track("q", 7, "cup", tube, TrackState.GROUNDED, HALF, "c", "f", np.int64(640), 480)
    message = received(conversions.track_to_msg(track))
    assert (message.box.x_max, message.box.y_min, message.box.y_max) == (640.0, 240.0, 480.0)
    assert (message.confidence, message.image_width) == (0.5, 640)
    assert message.tube[0].box.x_max == 640.0
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 1)

    event = Event("q", 1, "cup", Span(ONE, 2), EventState.PROVISIONAL, HALF, "c", "f")
    assert received(conversions.event_to_msg(event)).confidence == 0.5

    query = Query("q", "cup", Task.SVG, period=2, expiry=3, span=(0, 1), box=whole)
    answer = Answer(Task.DGC, phrases=(("cup", whole),))
    grounding = Grounding(query, answer, (1, 2), None, tube, 1, "c", "f", 640, 480)
    message = received(conversions.answer_to_msg(grounding))
    assert (message.confidence, message.phrase_boxes[0].x_max) == (1.0, 640.0)
    assert (message.query.period, message.query.expiry) == (2.0, 3.0)
    assert list(message.query.span) == [0.0, 1.0]
    assert message.query.box[0].x_max == 1.0


def from_message(**fields: Any) -> Query:
    """The query that the node makes of a client's message."""
    message = msg.Query(text="the box")
    for name, value in fields.items():
        try:
            setattr(message, name, value)
        except AssertionError as error:  # Humble checks
            pytest.skip(f"rclpy checks messages here: {error}")
    return conversions.query_from_msg(received(message), "q", 1.0)


def box(**corners: Any) -> dict[str, Any]:
    return {"box": [msg.Box(**corners)], "image_width": 10, "image_height": 10, "task": "REG"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"period": 2}, "period is"),
        ({"period": np.float32(2)}, "period is"),
        ({"period": -2}, "period is"),
        ({"expiry": 60}, "expiry is"),
        (box(x_max=5, y_max=5), "box is (0.0, 0.0, 0.0, 0.0), which has no area"),
        ({"period": 5e-324}, "period is 5e-324"),
        ({"period": float("nan")}, "period is nan"),
        (box(x_max=float("nan"), y_max=1.0), "box is nan"),
    ],
    ids=str,
)
def test_what_becomes_of_an_int_is_refused_with_the_explanation(
    fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(QueryError) as caught:
        from_message(**fields)
    assert str(caught.value).startswith(f"the query's {named}")
    assert "an int or a NumPy number in a float field" in str(caught.value)


@pytest.mark.parametrize("value", [1e-9, 1e300, -1.0, float("inf")])
@pytest.mark.parametrize("name", ["period", "expiry"])
def test_a_message_and_json_follow_the_same_rule(name: str, value: float) -> None:
    with pytest.raises(QueryError) as of_message:
        from_message(**{name: value})
    assert f"{name} of query 'q' is {value}; expected 0.01 to " in str(of_message.value)
    if value < float("inf"):
        with pytest.raises(QueryError) as of_json:
            parse_queries([f'{{"id": "q", "text": "the box", "{name}": {value}}}'], 1.0)
        assert str(of_json.value) == f"entry 1: {of_message.value}"


@pytest.mark.parametrize(
    "entry",
    [
        '{"text": "a", "expiry": ' + "9" * 400 + "}",
        '{"text": "a", "period": ' + "9" * 5000 + "}",
        '{"text": "a", "period": 1e999}',
        '{"text": "a", "period": NaN}',
        '{"text": "a", "span": [0, ' + "9" * 400 + "]}",
        '{"text": "a", "box": [0, 0, 1, ' + "9" * 400 + "]}",
        '{"text": "a\\ud800"}',
        '{"text": "a", "id": "x\\u0000"}',
        '{"id": "null", "text": "a"}',
    ],
)
def test_an_entry_of_the_parameter_follows_the_rule_in_one_short_line(entry: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_queries([entry], 1.0)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()
