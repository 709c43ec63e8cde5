"""Tracks: association of answers, states, and timeouts."""

from __future__ import annotations

import itertools

import pytest

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import Answer, Box, BoxTube, Grounding, Query, Task, TrackState
from llava_st_ros.tracking.association import (
    MAX_TUBE_BOXES,
    TrackAssociator,
    box_at,
    merge_tubes,
    tube_iou,
)

SECOND = 1_000_000_000
QUERY = Query("ball", "the red ball", period=1.0)


def box(x: float) -> Box:
    return Box(x, 0.2, x + 0.2, 0.4)


def tube(*at: tuple[float, float]) -> BoxTube:
    """From (seconds, x) pairs."""
    return BoxTube(tuple(round(s * SECOND) for s, _ in at), tuple(box(x) for _, x in at))


def moving(start: float, end: float, speed: float = 0.05, x: float = 0.0, step: float = 0.3):
    count = round((end - start) / step) + 1
    return tube(*((start + i * step, x + speed * (start + i * step)) for i in range(count)))


def grounding(t: BoxTube, newest: float, confidence: float = 0.9) -> Grounding:
    window = tuple(round((newest - 6 + i * 6 / 19) * SECOND) for i in range(20))
    return Grounding(
        QUERY, Answer(Task.STVG), window, None, t, confidence, "front", "front_optical", 640, 480
    )


@pytest.fixture
def tracks() -> TrackAssociator:
    return TrackAssociator(QUERY, itertools.count(), GrounderConfig())


def at(seconds: float) -> int:
    return round(seconds * SECOND)


def test_boxes_between_stamps_are_interpolated():
    t = tube((1, 0.0), (2, 0.2), (4, 0.2))
    assert box_at(t, at(1.5)).x1 == pytest.approx(0.1)
    assert box_at(t, at(2)) == box(0.2)
    assert box_at(t, at(0)) == box(0.0)
    assert box_at(t, at(9)) == box(0.2)


def test_iou_of_tubes():
    t = moving(0, 6)
    assert tube_iou(t, t) == pytest.approx(1.0)
    # The same motion at other stamps.
    assert tube_iou(t, moving(0.15, 6, step=0.4)) == pytest.approx(1.0)
    assert tube_iou(t, moving(0, 6, x=0.5)) == 0.0
    # Offset by a third of the width at every shared stamp: 2/3 over 4/3.
    assert tube_iou(t, moving(0, 6, x=0.2 / 3)) == pytest.approx(0.5)
    assert tube_iou(tube((0, 0.1)), tube((5, 0.1))) == pytest.approx(1.0)
    assert tube_iou(tube((5, 0.1)), tube((0, 0.1))) == pytest.approx(1.0)
    # One tube inside the time of the other, no shared stamp.
    assert tube_iou(tube((2, 0.1), (3, 0.1)), tube((0, 0.1), (9, 0.1))) == pytest.approx(1.0)
    assert tube_iou(BoxTube(), t) == 0.0


def test_only_the_overlap_in_time_is_compared():
    """A tube that differs only outside the track's time continues the track."""
    track = moving(0, 3, speed=0.0)
    new = BoxTube((*track.stamps, at(4), at(5)), (*track.boxes, box(0.7), box(0.8)))
    assert tube_iou(track, new) == pytest.approx(1.0)


def test_a_merged_tube_keeps_the_past_and_ends_with_the_new_tube():
    merged = merge_tubes(tube((0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)), tube((1, 0.5), (2, 0.6)))
    assert merged == tube((0, 0.0), (1, 0.5), (2, 0.6))
    long = tube(*((i, 0.0) for i in range(MAX_TUBE_BOXES)))
    bounded = merge_tubes(long, tube((MAX_TUBE_BOXES, 0.1), (MAX_TUBE_BOXES + 1, 0.1)))
    assert len(bounded) == MAX_TUBE_BOXES
    assert bounded.stamps[-1] == at(MAX_TUBE_BOXES + 1)


def test_answers_with_one_object_are_one_track(tracks):
    for second in range(6, 20):
        tracks.update(grounding(moving(second - 6, second), second), at(second))
        (track,) = tracks.tracks(at(second))
        assert track.track_id == 0
        assert track.state is TrackState.GROUNDED
        assert at(second) - track.stamp < 0.3 * SECOND
    assert track.tube.stamps[0] == 0
    assert (track.query_id, track.label) == ("ball", "the red ball")
    assert (track.camera, track.frame_id) == ("front", "front_optical")
    assert (track.width, track.height, track.confidence) == (640, 480, 0.9)


def test_another_object_is_another_track(tracks):
    tracks.update(grounding(moving(0, 6), 6), at(6))
    tracks.update(grounding(moving(1, 7, x=0.5), 7), at(7))
    old, new = tracks.tracks(at(7))
    assert (old.track_id, old.state) == (0, TrackState.LOST)
    assert (new.track_id, new.state) == (1, TrackState.GROUNDED)


def test_the_best_match_wins(tracks):
    tracks.update(grounding(moving(0, 6, x=0.0), 6), at(6))
    tracks.update(grounding(moving(0, 6, x=0.3), 6), at(6))
    tracks.update(grounding(moving(1, 7, x=0.24), 7), at(7))
    assert [(t.track_id, t.state) for t in tracks.tracks(at(7))] == [
        (0, TrackState.LOST),
        (1, TrackState.GROUNDED),
    ]


def test_an_object_that_reappears_keeps_its_track(tracks):
    tracks.update(grounding(moving(0, 6), 6), at(6))
    tracks.update(grounding(BoxTube(), 7), at(7))
    assert tracks.tracks(at(7))[0].state is TrackState.LOST
    tracks.update(grounding(moving(2, 8), 8), at(8))
    (track,) = tracks.tracks(at(8))
    assert (track.track_id, track.state) == (0, TrackState.GROUNDED)


def test_a_lost_track_is_dropped_after_the_timeout(tracks):
    tracks.update(grounding(moving(0, 6), 6), at(6))
    tracks.update(grounding(BoxTube(), 7), at(7))
    assert len(tracks.tracks(at(9.9))) == 1
    assert tracks.tracks(at(10.1)) == ()
    tracks.update(grounding(moving(4, 10.2), 10.2), at(10.2))
    assert tracks.tracks(at(10.2))[0].track_id == 1


def test_a_past_object_stays_one_lost_track_while_answers_contain_it(tracks):
    """The tube ended 2 s ago and is still in the window: one track, not GROUNDED again."""
    for second in range(5, 10):
        tracks.update(grounding(moving(1, 3), second), at(second))
        (track,) = tracks.tracks(at(second))
        assert (track.track_id, track.state) == (0, TrackState.LOST)
    assert tracks.tracks(at(14)) == ()


def test_a_track_is_unchanged_between_answers(tracks):
    tracks.update(grounding(moving(0, 6), 6), at(6))
    before = tracks.tracks(at(6))
    assert tracks.tracks(at(6.9)) == before


def test_a_track_without_new_answers_is_lost_then_dropped(tracks):
    tracks.update(grounding(moving(0, 6), 6), at(6))
    assert tracks.tracks(at(9.9))[0].state is TrackState.GROUNDED
    assert tracks.tracks(at(10.1))[0].state is TrackState.LOST
    assert len(tracks.tracks(at(12.9))) == 1
    assert tracks.tracks(at(13.1)) == ()


def test_a_slow_query_keeps_its_tracks_between_answers():
    slow = TrackAssociator(
        Query("ball", "the red ball", period=20.0), itertools.count(), GrounderConfig()
    )
    slow.update(grounding(moving(0, 6), 6), at(6))
    assert slow.tracks(at(25))[0].state is TrackState.GROUNDED


def test_the_clock_may_differ_from_the_stamps(tracks):
    """A recording of last year with today's clock: only differences matter."""
    tracks.update(grounding(moving(0, 6), 6), at(1e6))
    assert tracks.tracks(at(1e6 + 1))[0].state is TrackState.GROUNDED


def test_ids_are_shared_and_clear_drops_all():
    ids = itertools.count()
    one, two = (TrackAssociator(QUERY, ids, GrounderConfig()) for _ in range(2))
    one.update(grounding(moving(0, 6), 6), at(6))
    two.update(grounding(moving(0, 6), 6), at(6))
    assert one.tracks(at(6))[0].track_id != two.tracks(at(6))[0].track_id
    one.clear()
    assert one.tracks(at(6)) == ()
