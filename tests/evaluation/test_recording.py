"""Final tubes out of a stream of publications, and the demo's score of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.score import TrueQuery, read_truth, score
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.recording import MAX_GAP, Recording, covered
from llava_st_ros.records import Box, BoxTube, Event, EventState, Span, Track, TrackState

A, B = Box(0.0, 0.0, 0.2, 0.2), Box(0.2, 0.0, 0.4, 0.2)
STEP = MAX_GAP // 4


def track(boxes: dict[int, Box], id: int = 1, state=TrackState.GROUNDED, query: str = "q1"):
    tube = BoxTube(tuple(s * STEP for s in boxes), tuple(boxes.values()))
    return Track(query, id, "ball", tube, state, 0.5, "cam", "cam_frame", 100, 50)


def test_a_newer_tube_replaces_the_older_from_its_first_stamp_on() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A, 2: A, 3: A}))
    recording.add_track(track({2: B}))
    (final,) = recording.tracks
    assert final.tube.as_dict() == {0: A, STEP: A, 2 * STEP: B}


def test_a_carried_box_is_no_word_of_the_model() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A}))
    recording.add_track(track({0: A, 1: A, 2: B}, state=TrackState.PROPAGATED))
    assert recording.tracks[0].tube.stamps == (0, STEP)
    alone = Recording()
    alone.add_track(track({0: A}, state=TrackState.PROPAGATED))
    assert alone.tracks == ()


def test_a_tube_covers_what_lies_between_boxes_not_too_far_apart() -> None:
    tube = BoxTube((0, MAX_GAP, 3 * MAX_GAP), (A, B, B))
    assert covered(tube, 0) == A
    assert covered(tube, MAX_GAP // 2) == Box(0.1, 0.0, 0.30000000000000004, 0.2)
    assert covered(tube, 2 * MAX_GAP) is None
    assert covered(tube, 3 * MAX_GAP) == B
    assert covered(tube, -1) is None
    assert covered(tube, 3 * MAX_GAP + 1) is None


def test_of_two_tracks_the_one_that_changed_last_has_the_word() -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: A}, id=1))
    recording.add_track(track({1: B, 2: B}, id=2))
    recording.add_track(track({0: A, 1: A}, id=1))  # published again, unchanged
    recording.add_track(track({0: B}, id=3, query="q2"))
    assert recording.query_tube("q1", [0, STEP, 2 * STEP, 3 * STEP]) == {
        0: A,
        STEP: B,
        2 * STEP: B,
    }


def test_events_keep_their_last_word_and_all_is_written(tmp_path: Path) -> None:
    recording = Recording()
    recording.add_track(track({0: A, 1: B}))
    for end, state in ((1, EventState.BEGUN), (4, EventState.ONGOING), (3, EventState.ENDED)):
        recording.add_event(Event("q1", 7, "it rolls", Span(0, end), state, 0.5, "cam", "f"))
    recording.write(tmp_path)
    (line,) = (tmp_path / "tracks.jsonl").read_text().splitlines()
    assert json.loads(line)["tube"] == [
        {"stamp": 0, "box": [0.0, 0.0, 20.0, 10.0]},
        {"stamp": STEP, "box": [20.0, 0.0, 40.0, 10.0]},
    ]
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert (json.loads(line)["end"], json.loads(line)["state"]) == (3, "ENDED")


STAMPS = [i * STEP // 2 for i in range(21)]  # a camera twice as fast as the window's frames


def truth(first: int, last: int, box: Box = A) -> TrueQuery:
    return TrueQuery(
        "q1", "the ball rolls", (Span(first * STEP, last * STEP),), dict.fromkeys(STAMPS, box)
    )


def test_a_perfect_track_scores_one() -> None:
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), A)))
    result = score(recording, truth(2, 6), STAMPS)
    assert (result.viou, result.tiou, result.siou) == (1.0, 1.0, 1.0)


def test_wrong_time_and_wrong_place_both_cost() -> None:
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), Box(0.0, 0.0, 0.1, 0.2))))  # IoU 1/2
    late = score(recording, truth(4, 8), STAMPS)  # frames 4..12 and 8..16: 5 of 13
    assert late.tiou == pytest.approx(5 / 13)
    assert late.siou == pytest.approx(0.5)
    assert late.viou == pytest.approx(2.5 / 13)
    recording.add_track(track({9: A, 10: A}, id=2))  # a false track elsewhere in time: 3 frames
    assert score(recording, truth(4, 8), STAMPS).viou == pytest.approx(2.5 / 16)
    assert score(Recording(), truth(4, 8), STAMPS).viou == 0.0


def test_frames_in_which_the_object_is_hidden_count_for_nobody() -> None:
    seen = truth(2, 6)
    hidden = {s: box for s, box in seen.boxes.items() if not 3 * STEP <= s <= 4 * STEP}
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), A)))
    assert score(recording, TrueQuery("q1", "", seen.spans, hidden), STAMPS).viou == 1.0


def test_a_truth_that_lacks_something_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    with pytest.raises(DataError, match=r"truth\.json"):
        read_truth(path)
    path.write_text('{"queries": [{"id": "q1"}]}')
    with pytest.raises(DataError, match="text"):
        read_truth(path)
