"""Scores of standing queries over a stream, and ground-truth files."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation import stream_scores
from llava_st_ros.evaluation.recording import MAX_GAP, Recording
from llava_st_ros.evaluation.stream_scores import (
    AnnotatedQuery,
    read_ground_truth,
    score_query,
)
from llava_st_ros.records import Box, BoxTube, Span, Track, TrackState

A = Box(0.0, 0.0, 0.2, 0.2)
STEP = MAX_GAP // 4
STAMPS = [i * STEP // 2 for i in range(21)]  # a camera at twice the window's frame rate


def track(boxes: dict[int, Box], id: int = 1) -> Track:
    tube = BoxTube(tuple(s * STEP for s in boxes), tuple(boxes.values()))
    return Track("q1", id, "ball", tube, TrackState.GROUNDED, 0.5, "cam", "cam_frame", 100, 50)


def test_docstring_examples() -> None:
    results = doctest.testmod(stream_scores)
    assert results.failed == 0
    assert results.attempted >= 3


def rolls_during(first: int, last: int) -> AnnotatedQuery:
    return AnnotatedQuery(
        "q1", "the ball rolls", (Span(first * STEP, last * STEP),), dict.fromkeys(STAMPS, A)
    )


def test_perfect_track_scores_one() -> None:
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), A)))
    result = score_query(recording, rolls_during(2, 6), STAMPS)
    assert (result.viou, result.tiou, result.siou) == (1.0, 1.0, 1.0)


def test_temporal_and_spatial_errors_both_lower_viou() -> None:
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), Box(0.0, 0.0, 0.1, 0.2))))  # IoU 1/2
    late = score_query(recording, rolls_during(4, 8), STAMPS)  # frames 4..12 and 8..16: 5 of 13
    assert late.tiou == pytest.approx(5 / 13)
    assert late.siou == pytest.approx(0.5)
    assert late.viou == pytest.approx(2.5 / 13)
    recording.add_track(track({9: A, 10: A}, id=2))  # a false track elsewhere in time: 3 frames
    assert score_query(recording, rolls_during(4, 8), STAMPS).viou == pytest.approx(2.5 / 16)
    assert score_query(Recording(), rolls_during(4, 8), STAMPS).viou == 0.0


def test_frames_with_hidden_object_are_ignored() -> None:
    seen = rolls_during(2, 6)
    hidden = {s: box for s, box in seen.boxes.items() if not 3 * STEP <= s <= 4 * STEP}
    recording = Recording()
    recording.add_track(track(dict.fromkeys(range(2, 7), A)))
    assert score_query(recording, AnnotatedQuery("q1", "", seen.spans, hidden), STAMPS).viou == 1.0


def test_incomplete_ground_truth_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    with pytest.raises(DataError, match=r"truth\.json"):
        read_ground_truth(path)
    path.write_text('{"queries": [{"id": "q1"}]}')
    with pytest.raises(DataError, match="text"):
        read_ground_truth(path)
