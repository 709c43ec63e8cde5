"""Records to messages and back: pure functions."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence

from builtin_interfaces.msg import Duration, Time
from std_msgs.msg import Header

from llava_st_ros import msg
from llava_st_ros.errors import QueryError
from llava_st_ros.records import (
    NANOSECONDS,
    Box,
    BoxTube,
    Event,
    Grounding,
    Query,
    Segment,
    Track,
)
from llava_st_ros.text.query_parser import parse_span, parse_task

_WRITE_FLOATS = (
    "an int or a NumPy number in a float field of a Python message arrives like this: write 2.0 or "
    "float(x)"
)


def stamp_from_msg(time: Time) -> int:
    """Convert a time to nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def stamp_to_msg(stamp: int) -> Time:
    """Convert nanoseconds to a time."""
    seconds, nanoseconds = divmod(int(stamp), NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def header(stamp: int, frame_id: str) -> Header:
    return Header(stamp=stamp_to_msg(stamp), frame_id=frame_id)


def box_to_msg(box: Box, width: int, height: int) -> msg.Box:
    """Convert a box in [0, 1] to pixels of a width x height image."""
    x_min, y_min, x_max, y_max = map(float, box.to_pixels(width, height))
    return msg.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def tube_to_msg(tube: BoxTube, width: int, height: int) -> list[msg.GroundedBox]:
    return [
        msg.GroundedBox(stamp=stamp_to_msg(stamp), box=box_to_msg(box, width, height))
        for stamp, box in zip(tube.stamps, tube.boxes)
    ]


def track_tube_to_msg(track: Track) -> list[msg.GroundedBox]:
    """Convert the boxes of a track, of which the last may be propagated."""
    boxes = tube_to_msg(track.tube, track.width, track.height)
    if track.propagated_from is not None:
        seconds, nanoseconds = divmod(track.stamp - track.propagated_from, NANOSECONDS)
        boxes[-1].source = msg.GroundedBox.PROPAGATION
        boxes[-1].age = Duration(sec=seconds, nanosec=nanoseconds)
    return boxes


def track_to_msg(track: Track) -> msg.GroundedTrack:
    return msg.GroundedTrack(
        header=header(track.stamp, track.frame_id),
        camera=track.camera,
        query_id=track.query_id,
        track_id=track.track_id,
        label=track.label,
        state=track.state.value,
        confidence=float(track.confidence),
        image_width=int(track.width),
        image_height=int(track.height),
        box=box_to_msg(track.box, track.width, track.height),
        tube=track_tube_to_msg(track),
    )


def tracks_to_msg(
    tracks: Sequence[Track], camera: str, stamp: int, frame_id: str
) -> msg.GroundedTrackArray:
    """Convert the tracks of one camera.

    Args:
        tracks: The tracks; may be empty.
        camera: The camera.
        stamp: Of the newest frame (ns); the array's is that of the newest box, if that is newer.
        frame_id: That of the frame.
    """
    return msg.GroundedTrackArray(
        header=header(max([stamp, *(track.stamp for track in tracks)]), frame_id),
        camera=camera,
        tracks=[track_to_msg(track) for track in tracks],
    )


def event_to_msg(event: Event) -> msg.GroundedEvent:
    return msg.GroundedEvent(
        header=header(event.span.end, event.frame_id),
        camera=event.camera,
        query_id=event.query_id,
        event_id=event.event_id,
        text=event.text,
        start=stamp_to_msg(event.span.start),
        end=stamp_to_msg(event.span.end),
        state=event.state.value,
        confidence=float(event.confidence),
        reason=event.reason.value,
    )


def answer_to_msg(grounding: Grounding) -> msg.Answer:
    """Convert an answer, raw and mapped to the stamps of the window."""
    answer, width, height = grounding.answer, int(grounding.width), int(grounding.height)
    spans = [Segment(grounding.span, "")] if grounding.span else []
    probability = grounding.match_probability
    return msg.Answer(
        header=header(grounding.window[-1], grounding.frame_id),
        camera=grounding.camera,
        query=query_to_msg(grounding.query),
        text=answer.text,
        confidence=float(grounding.confidence),
        image_width=width,
        image_height=height,
        window_start=stamp_to_msg(grounding.window[0]),
        window_end=stamp_to_msg(grounding.window[-1]),
        span=[segment_to_msg(segment) for segment in spans],
        tube=tube_to_msg(grounding.tube, width, height),
        caption=answer.caption or "",
        phrases=[phrase for phrase, _ in answer.phrases],
        phrase_boxes=[box_to_msg(box, width, height) for _, box in answer.phrases],
        segments=[segment_to_msg(segment) for segment in grounding.segments],
        no_match=answer.no_match,
        problems=list(answer.problems),
        match_probability=math.nan if probability is None else float(probability),
    )


def match_probability(message: msg.Answer) -> float | None:
    """Return an answer's probability of a match; None if its task has no such choice."""
    probability = float(message.match_probability)
    return None if math.isnan(probability) else probability


def query_to_msg(query: Query) -> msg.Query:
    """Convert a query. Its box is given in pixels of a 1 x 1 image, which fits any camera."""
    return msg.Query(
        id=query.id,
        text=query.text,
        task=query.task.value,
        cameras=list(query.cameras),
        period=float(query.period),
        expiry=float(query.expiry or 0.0),
        span=[float(value) for value in query.span or ()],
        box=[box_to_msg(query.box, 1, 1)] if query.box else [],
        image_width=1 if query.box else 0,
        image_height=1 if query.box else 0,
    )


def query_from_msg(message: msg.Query, query_id: str, default_period: float) -> Query:
    """Convert a message to a query.

    Args:
        message: The query; its id is ignored.
        query_id: The id of the result.
        default_period: Seconds, for a message with the period 0.

    Raises:
        QueryError: A value is not valid; see ``records.Query``.
    """
    for name, values in (
        ("period", [message.period]),
        ("expiry", [message.expiry]),
        ("span", message.span),
    ):
        _check_floats(name, values)
    return Query(
        id=query_id,
        text=message.text,
        task=parse_task(message.task),
        cameras=tuple(message.cameras),
        period=message.period or default_period,
        expiry=message.expiry or None,
        span=parse_span(message.span),
        box=_box_from_msg(message),
    )


def _box_from_msg(message: msg.Query) -> Box | None:
    if not message.box:
        return None
    box, width, height = message.box[0], message.image_width, message.image_height
    if not (width and height):
        raise QueryError(
            "the query has a box without image_width and image_height; "
            "expected the size of the image that the box refers to"
        )
    corners = (box.x_min, box.y_min, box.x_max, box.y_max)
    _check_floats("box", corners)
    if box.x_min == box.x_max or box.y_min == box.y_max:
        raise QueryError(f"the query's box is {corners}, which has no area; {_WRITE_FLOATS}")
    return Box.from_pixels(corners, width, height)


def _check_floats(name: str, values: Iterable[float]) -> None:
    """Raise QueryError for what becomes of an int or a NumPy number in a field of a message.

    rclpy copies its bytes without a check (in Jazzy by default), which gives a number near 0.
    """
    for value in values:
        if math.isnan(value) or 0 < abs(value) < sys.float_info.min:
            raise QueryError(f"the query's {name} is {value}; {_WRITE_FLOATS}")


def segment_to_msg(segment: Segment) -> msg.Segment:
    return msg.Segment(
        start=stamp_to_msg(segment.span.start),
        end=stamp_to_msg(segment.span.end),
        text=segment.text,
    )
