"""Recording: final tubes and events from a stream of publications."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from llava_st_ros.evaluation.recording import MAX_GAP, Recording, covering_box
from llava_st_ros.records import Box, BoxTube, Event, EventState, Span, Track, TrackState

A, B = Box(0.0, 0.0, 0.2, 0.2), Box(0.2, 0.0, 0.4, 0.2)
STEP = MAX_GAP // 4


def track(boxes: dict[int, Box], id: int = 1, state=TrackState.GROUNDED, query: str = "q1"):
    tube = BoxTube(tuple(s * STEP for s in boxes), tuple(boxes.values()))
    return Track(query, id, "ball", tube, state, 0.5, "cam", "cam_frame", 100, 50)


def test_newer_tube_replaces_older_from_its_first_stamp() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A, 2: A, 3: A}))
    recording.add_track(track({2: B}))
    (final,) = recording.tracks
    assert final.tube.as_dict() == {0: A, STEP: A, 2 * STEP: B}


def propagated(item: Track) -> Track:
    return replace(item, propagated_from=0)


def test_propagated_boxes_are_not_recorded() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A}))
    recording.add_track(propagated(track({0: A, 1: A, 2: B}, state=TrackState.PROPAGATED)))
    assert recording.tracks[0].tube.stamps == (0, STEP)
    alone = Recording()
    alone.add_track(propagated(track({0: A}, state=TrackState.LOST)))
    assert alone.tracks == ()


def test_boxes_are_interpolated_across_gaps_up_to_the_maximum() -> None:
    tube = BoxTube((0, MAX_GAP, 3 * MAX_GAP), (A, B, B))
    assert covering_box(tube, 0) == A
    assert covering_box(tube, MAX_GAP // 2) == Box(0.1, 0.0, 0.30000000000000004, 0.2)
    assert covering_box(tube, 2 * MAX_GAP) is None
    assert covering_box(tube, 3 * MAX_GAP) == B
    assert covering_box(tube, -1) is None
    assert covering_box(tube, 3 * MAX_GAP + 1) is None


def test_the_most_recently_changed_track_wins() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A}, id=1))
    recording.add_track(track({1: B, 2: B}, id=2))
    recording.add_track(track({0: A, 1: A}, id=1))  # published again, unchanged
    recording.add_track(track({0: B}, id=3, query="q2"))
    found = recording.query_boxes("q1", [0, STEP, 2 * STEP, 3 * STEP])
    first = {stamp: next(iter(boxes.values())) for stamp, boxes in found.items()}
    assert first == {0: A, STEP: B, 2 * STEP: B}


def test_retracted_events_are_not_kept() -> None:
    recording = Recording()
    for event_id, state in (
        (1, EventState.PROVISIONAL),
        (2, EventState.CONFIRMED),
        (1, EventState.RETRACTED),
        (3, EventState.RETRACTED),  # published before the recording began
    ):
        recording.add_event(Event("q1", event_id, "it rolls", Span(0, 1), state, 0.5, "cam", "f"))
    assert [event.event_id for event in recording.events] == [2]
    assert len(recording.event_streams) == len(recording.events_json()) == 1


def test_events_keep_their_last_publication_and_records_are_written(tmp_path: Path) -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: B}))
    for end, state in (
        (1, EventState.PROVISIONAL),
        (4, EventState.CONFIRMED),
        (3, EventState.ENDED),
    ):
        recording.add_event(Event("q1", 7, "it rolls", Span(0, end), state, 0.5, "cam", "f"))
    recording.write(tmp_path)
    (line,) = (tmp_path / "tracks.jsonl").read_text().splitlines()
    assert json.loads(line)["tube"] == [
        {"stamp": 0, "box": [0.0, 0.0, 20.0, 10.0]},
        {"stamp": STEP, "box": [20.0, 0.0, 40.0, 10.0]},
    ]
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert (json.loads(line)["end"], json.loads(line)["state"]) == (3, "ENDED")
