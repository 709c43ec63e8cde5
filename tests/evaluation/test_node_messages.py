"""Messages of a node as published ticks: grouped by tick, in header time."""

from __future__ import annotations

import random

from llava_st_ros.evaluation.node_messages import (
    Publication,
    published_ticks,
    to_event,
    to_grounding,
    to_track,
)
from llava_st_ros.records import Box, EventState, Span, Task, TrackState

COMMON = {
    "camera": "camera",
    "frame_id": "optical",
    "query_id": "q",
    "image_width": 100,
    "image_height": 50,
    "confidence": 0.5,
}
ANSWER = COMMON | {
    "query": "the ball rolls",
    "task": "STVG",
    "text": "...",
    "window": [10, 30],
    "span": [20, 30],
    "tube": [[20, 0, 0, 50, 50], [30, 50, 0, 100, 50]],
    "no_match": False,
    "match_probability": 0.75,
    "problems": [],
}
EVENT = COMMON | {
    "event_id": 1,
    "text": "the ball rolls",
    "start": 20,
    "end": 30,
    "state": 0,
    "reason": 0,
}
TRACK = COMMON | {
    "track_id": 1,
    "label": "the ball rolls",
    "state": 0,
    "tube": ANSWER["tube"],
    "propagated_from": None,
}
SENT = {10: 1010, 20: 1020, 30: 1033}  # by stamp; the last frame was late


def test_messages_become_records() -> None:
    grounding = to_grounding(ANSWER)
    assert (grounding.window, grounding.span) == ((10, 30), Span(20, 30))
    assert grounding.tube.as_dict() == {20: Box(0, 0, 0.5, 1), 30: Box(0.5, 0, 1, 1)}
    assert grounding.query.task is Task.STVG and not grounding.answer.no_match
    assert grounding.match_probability == 0.75
    nothing = to_grounding(ANSWER | {"span": [], "tube": [], "no_match": True})
    assert nothing.span is None and len(nothing.tube) == 0 and nothing.answer.no_match
    assert to_track(TRACK).tube == grounding.tube
    assert to_track(TRACK).state is TrackState.GROUNDED
    assert to_track(TRACK | {"propagated_from": 20}).propagated_from == 20
    assert to_event(EVENT).state is EventState.PROVISIONAL


def test_the_messages_of_a_tick_are_one_tick_in_header_time() -> None:
    grounding, event, track = to_grounding(ANSWER), to_event(EVENT), to_track(TRACK)
    publications = [
        Publication(1025, ()),
        Publication(1040, grounding),
        Publication(1041, event),
        Publication(1042, (track,)),
        Publication(1050, event),
    ]
    random.Random(1).shuffle(publications)  # topics are received independently of each other
    first, second, last = published_ticks(publications, SENT)
    assert (first.at, first.tick.tracks, first.tick.groundings) == (25, (), ())
    assert (second.at, second.tick.tracks) == (39, (track,))  # 9 after the frame with stamp 30
    assert (second.tick.groundings, second.tick.events) == ((grounding,), (event,))
    # Tracks are those of the last array, until the next one.
    assert (last.at, last.tick.tracks, last.tick.events) == (47, (track,), (event,))


def test_header_time_never_runs_back() -> None:
    publications = [Publication(time, ()) for time in (1032, 1033, 1036)]
    assert [tick.at for tick in published_ticks(publications, SENT)] == [32, 32, 33]


def test_without_messages_or_frames_nothing_was_published() -> None:
    assert published_ticks([], SENT) == []
    assert published_ticks([Publication(1, ())], {}) == []
