"""Tracks: association of answers, states, and timeouts."""

from __future__ import annotations

import itertools

import pytest

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    Candidate,
    Grounding,
    Query,
    Task,
    Track,
    TrackState,
)
from llava_st_ros.tracking.association import (
    MAX_OBJECTS,
    TrackAssociator,
    box_at,
    merge_tubes,
    nearness,
    tube_iou,
)
from llava_st_ros.tracking.events import MAX_TUBE_BOXES, EventTube
from llava_st_ros.tracking.evidence import Sighting

SECOND = 1_000_000_000
QUERY = Query("ball", "the red ball", Task.SVG, period=1.0)
CONFIG = GrounderConfig(evidence_off=0.4, confirmations=2)
GROUNDED, LOST = TrackState.GROUNDED, TrackState.LOST


def box(x: float) -> Box:
    return Box(x, 0.2, x + 0.2, 0.4)


def tube(*at: tuple[float, float]) -> BoxTube:
    """From (seconds, x) pairs."""
    return BoxTube(tuple(round(s * SECOND) for s, _ in at), tuple(box(x) for _, x in at))


def moving(start: float, end: float, speed: float = 0.05, x: float = 0.0, step: float = 0.3):
    count = round((end - start) / step) + 1
    return tube(*((start + i * step, x + speed * (start + i * step)) for i in range(count)))


def grounding(
    t: BoxTube, newest: float, probability: float | None = 0.9, *, no_match: bool = False
) -> Grounding:
    """An answer with a tube; of "no match" the tube is the candidate."""
    window = tuple(round((newest - 6 + i * 6 / 19) * SECOND) for i in range(20))
    return Grounding(
        QUERY,
        Answer(Task.SVG, no_match=no_match),
        window,
        None,
        BoxTube() if no_match else t,
        0.9,
        "front",
        "front_optical",
        640,
        480,
        match_probability=probability,
        candidate=Candidate(None, t, 0.1) if no_match and len(t) else None,
    )


def see(
    tracks: TrackAssociator,
    t: BoxTube,
    now: float,
    probability: float = 0.9,
    *,
    no_match: bool = False,
) -> tuple[Track, ...]:
    """Add an answer at a time; return the tracks."""
    answer = grounding(t, now, probability, no_match=no_match)
    tracks.update(Sighting.of(answer), answer, at(now))
    return tracks.tracks(at(now))


def miss(tracks: TrackAssociator, now: float) -> tuple[Track, ...]:
    """Add an answer "no match" without a candidate."""
    return see(tracks, BoxTube(), now, 0.05, no_match=True)


@pytest.fixture
def tracks() -> TrackAssociator:
    return TrackAssociator(QUERY, itertools.count(), CONFIG)


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
        (track,) = see(tracks, moving(second - 6, second), second)
        assert track.track_id == 0
        assert track.state is GROUNDED
        assert at(second) - track.stamp < 0.3 * SECOND
    assert track.tube.stamps[0] == 0
    assert (track.query_id, track.label) == ("ball", "the red ball")
    assert (track.camera, track.frame_id) == ("front", "front_optical")
    assert (track.width, track.height, track.confidence) == (640, 480, 0.9)


def test_another_object_is_published_when_a_second_answer_shows_it(tracks):
    see(tracks, moving(0, 6), 6)
    (old,) = see(tracks, moving(1, 7, x=0.7), 7)
    assert (old.track_id, old.state) == (0, GROUNDED)  # the other object was in one answer only
    old, new = see(tracks, moving(2, 8, x=0.7), 8)
    assert (old.track_id, old.state) == (0, LOST)
    assert (new.track_id, new.state) == (1, GROUNDED)
    assert new.tube.stamps[0] == at(1)


def test_the_best_match_wins(tracks):
    for second in (6, 6.5, 7, 7.5):
        see(tracks, moving(second - 6, second, x=0.0 if second < 7 else 0.6), second)
    see(tracks, moving(2, 8, x=0.55), 8)
    assert [(t.track_id, t.state) for t in tracks.tracks(at(8))] == [(0, LOST), (1, GROUNDED)]


def test_one_refused_answer_does_not_lose_an_object_and_several_do(tracks):
    see(tracks, moving(0, 6), 6)
    (track,) = miss(tracks, 7)  # presence 0.45
    assert track.state is GROUNDED
    assert track.stamp == at(6)
    (track,) = miss(tracks, 8)
    assert track.state is LOST
    (track,) = see(tracks, moving(3, 9), 9)
    assert (track.track_id, track.state) == (0, GROUNDED)


def test_a_candidate_of_no_match_continues_a_track_but_starts_none(tracks):
    assert see(tracks, moving(0, 6), 6, 0.6, no_match=True) == ()
    see(tracks, moving(0, 6), 6)
    for second in range(7, 12):
        (track,) = see(tracks, moving(second - 6, second), second, 0.6, no_match=True)
        assert track.state is GROUNDED
        assert at(second) - track.stamp < 0.3 * SECOND
        assert track.confidence == 0.1  # of the candidate
    for second in range(12, 15):
        tracks_now = see(tracks, moving(second - 6, second), second, 0.2, no_match=True)
    assert tracks_now[0].state is LOST


def test_an_object_that_is_lost_is_not_published_and_keeps_its_id(tracks):
    see(tracks, moving(0, 6, speed=0.0), 6)
    for second in range(7, 12):
        miss(tracks, second)
    assert tracks.tracks(at(12)) == ()  # LOST since 8 s, for more than 3 s
    (track,) = see(tracks, moving(14, 20, speed=0.0, x=0.15), 20)
    assert (track.track_id, track.state) == (0, GROUNDED)
    assert track.tube.stamps[0] == 0


def test_an_object_is_forgotten_after_the_memory():
    config = GrounderConfig(evidence_off=0.4, memory_seconds=5.0)
    tracks = TrackAssociator(QUERY, itertools.count(), config)
    see(tracks, moving(0, 6, speed=0.0), 6)
    for second in range(7, 10):
        miss(tracks, second)
    (track,) = see(tracks, moving(8, 14, speed=0.0), 14)
    assert track.track_id == 1


@pytest.mark.parametrize(
    ("x", "side", "expected"),
    [
        (0.2, 0.2, 1.0),  # the same place and size
        (0.4, 0.2, 0.5),  # a side away of two
        (0.61, 0.2, 0.0),
        (0.2, 0.41, 0.0),  # more than twice as large
    ],
)
def test_an_object_is_found_again_by_place_and_size(x, side, expected):
    old = BoxTube((0,), (Box(0.1, 0.1, 0.3, 0.3),))
    new = BoxTube((9,), (Box(x - side / 2, 0.2 - side / 2, x + side / 2, 0.2 + side / 2),))
    assert nearness(old, new) == pytest.approx(expected, abs=1e-9)


def test_degenerate_boxes_have_no_place():
    point = BoxTube((0,), (Box(0.5, 0.5, 0.5, 0.5),))
    assert nearness(point, point) == 0.0
    assert nearness(BoxTube(), point) == nearness(point, BoxTube()) == 0.0


def test_a_past_object_is_lost_while_answers_contain_it(tracks):
    """The tube ended 2 s ago and is still in the window."""
    for second in range(5, 10):
        (track,) = see(tracks, moving(1, 3), second)
        assert (track.track_id, track.state) == (0, LOST)
    assert tracks.tracks(at(14)) == ()


def test_a_track_is_unchanged_between_answers(tracks):
    before = see(tracks, moving(0, 6), 6)
    assert tracks.tracks(at(6.9)) == before


def test_a_track_without_new_answers_is_lost_then_dropped(tracks):
    see(tracks, moving(0, 6), 6)
    assert tracks.tracks(at(9.9))[0].state is GROUNDED
    assert tracks.tracks(at(10.1))[0].state is LOST
    assert len(tracks.tracks(at(12.9))) == 1
    assert tracks.tracks(at(13.1)) == ()


def test_a_slow_query_keeps_its_tracks_between_answers():
    query = Query("ball", "the red ball", Task.SVG, period=20.0)
    slow = TrackAssociator(query, itertools.count(), CONFIG)
    see(slow, moving(0, 6), 6)
    assert slow.tracks(at(25))[0].state is GROUNDED


def test_the_clock_may_differ_from_the_stamps(tracks):
    """A recording of last year with today's clock: only differences matter."""
    answer = grounding(moving(0, 6), 6)
    tracks.update(Sighting.of(answer), answer, at(1e6))
    assert tracks.tracks(at(1e6 + 1))[0].state is GROUNDED


def test_ids_are_shared_and_clear_drops_all():
    ids = itertools.count()
    one, two = (TrackAssociator(QUERY, ids, CONFIG) for _ in range(2))
    (a,), (b,) = see(one, moving(0, 6), 6), see(two, moving(0, 6), 6)
    assert a.track_id != b.track_id
    one.clear()
    assert one.tracks(at(6)) == ()


def test_the_objects_that_are_remembered_are_bounded(tracks):
    for i in range(3 * MAX_OBJECTS):
        x, y = i % 7 / 7, i // 7 / 7
        spot = BoxTube((at(6 + i / 10),), (Box(x, y, x + 0.01, y + 0.01),))
        see(tracks, spot, 6 + i / 10)
    assert len(tracks._objects) == MAX_OBJECTS


def with_event(
    tracks: TrackAssociator, now: float, *tubes: tuple[int, BoxTube], final: tuple[int, ...] = ()
) -> tuple[Track, ...]:
    """Process confirmed events by id; return the tracks."""
    found = [EventTube(i, tube, 0.8, i in final) for i, tube in tubes]
    tracks.update_events(found, grounding(BoxTube(), now), at(now))
    return tracks.tracks(at(now))


def test_a_confirmed_event_is_a_track_that_follows_its_boxes(tracks):
    (track,) = with_event(tracks, 6, (0, moving(4, 6)))
    assert (track.track_id, track.state, track.confidence) == (0, GROUNDED, 0.8)
    (track,) = with_event(tracks, 7, (0, moving(4.3, 7)))
    assert track.tube == moving(4.3, 7)  # replaced, not added
    (track,) = with_event(tracks, 9, (0, moving(4.3, 7)), final=(0,))
    assert track.state is LOST
    assert with_event(tracks, 10)[0].tube == moving(4.3, 7)  # final boxes stay
    assert with_event(tracks, 13) == ()


def test_a_later_event_of_an_object_has_its_track(tracks):
    with_event(tracks, 6, (0, moving(4, 6, speed=0.0)), final=(0,))
    (track,) = with_event(tracks, 20, (1, moving(18, 20, speed=0.0)))
    assert track.track_id == 0
    assert track.tube.stamps == moving(4, 6).stamps + moving(18, 20).stamps
    old, new = with_event(tracks, 21, (1, moving(18, 20, speed=0.0)), (2, moving(20, 21, x=-0.4)))
    assert (old.track_id, new.track_id) == (0, 1)


def test_the_boxes_of_a_retracted_event_are_dropped(tracks):
    with_event(tracks, 6, (0, moving(4, 6)))
    assert with_event(tracks, 7) == ()
    with_event(tracks, 8, (1, moving(4, 6)), final=(1,))
    with_event(tracks, 9, (2, moving(7, 9)))
    (track,) = with_event(tracks, 10)
    assert track.tube == moving(4, 6)
