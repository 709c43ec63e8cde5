"""Tracks between answers: replay on arrival, states, what is forgotten, bounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from llava_st_ros.records import Box, BoxTube, Frame, Track, TrackState
from llava_st_ros.tracking import propagation
from llava_st_ros.tracking.propagation import (
    HALF_LIFE,
    HISTORY_BYTES,
    HISTORY_SECONDS,
    MAX_SECONDS,
    CameraPropagation,
    Picture,
    PictureHistory,
)

SECOND = 10**9
WIDTH, HEIGHT = 160, 120


def image(x: int, *, hidden: bool = False) -> np.ndarray:
    """A checkered square of 40 px whose left side is at x."""
    pixels = np.full((HEIGHT, WIDTH, 3), 80, np.uint8)
    if not hidden:
        rng = np.random.default_rng(1)
        blocks = rng.integers(0, 256, (5, 5)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        pixels[40:80, x : x + 40] = blocks[..., None]
    return pixels


def frame(seconds: float, x: int, **options: bool) -> Frame:
    return Frame(image(x, **options), round(seconds * SECOND), "cam", "optical")


def box(x: float) -> Box:
    return Box.from_pixels((x, 40, x + 40, 80), WIDTH, HEIGHT)


def track(seconds: float, x: float, id: int = 1, state=TrackState.GROUNDED, query="q") -> Track:
    tube = BoxTube((round(seconds * SECOND),), (box(x),))
    return Track(query, id, "square", tube, state, 0.8, "cam", "optical", WIDTH, HEIGHT)


def left(item: Track) -> float:
    return item.box.x1 * WIDTH


def place(seconds: float) -> int:
    """20 px a second."""
    return 20 + round(20 * seconds)


def moving(camera: CameraPropagation, first: float, last: float, rate: int = 10):
    """Add frames of the moving square; return the tracks in the last one."""
    found = None
    for n in range(round(first * rate), round(last * rate) + 1):
        found = camera.add(frame(n / rate, place(n / rate)))
    return found


def answered(camera: CameraPropagation, *tracks: Track) -> tuple[Track, ...]:
    camera.set_tracks(tracks)
    return camera.catch_up()


def test_an_answer_about_the_past_is_carried_to_the_present_before_it_is_published() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 3.0)
    (found,) = answered(camera, track(1.0, place(1.0)))
    assert (found.stamp, found.state) == (3 * SECOND, TrackState.PROPAGATED)
    assert left(found) == pytest.approx(place(3.0), abs=1.0)
    assert found.tube.stamps == (SECOND, 3 * SECOND)
    assert found.propagated_from == SECOND


def test_a_track_follows_every_frame_with_falling_confidence() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 0.0)
    (grounded,) = answered(camera, track(0.0, place(0.0)))
    assert (grounded.state, grounded.confidence) == (TrackState.GROUNDED, 0.8)
    last = grounded
    for n in range(1, 31):
        (now,) = camera.add(frame(n / 10, place(n / 10))) or ()
        assert (now.state, now.stamp) == (TrackState.PROPAGATED, n * SECOND // 10)
        assert now.confidence < last.confidence
        assert left(now) == pytest.approx(place(n / 10), abs=1.0)
        last = now
    assert last.confidence <= 0.8 * 0.5 ** (3.0 / HALF_LIFE) + 1e-9
    assert last.propagated_from == 0
    assert len(last.tube) == 2  # short at camera rate: the model's box and the current one
    assert camera.counts.carried == camera.counts.frames == 30


def test_a_new_answer_grounds_the_track_again() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 0.0)
    answered(camera, track(0.0, place(0.0) + 6))  # six pixels off, and so it stays
    (off,) = moving(camera, 0.1, 1.0)
    assert left(off) == pytest.approx(place(1.0) + 6, abs=1.5)
    (now,) = answered(camera, track(0.5, place(0.5)))
    assert left(now) == pytest.approx(place(1.0), abs=1.0)
    assert now.propagated_from == SECOND // 2
    assert now.confidence > off.confidence


def test_the_same_answer_again_changes_nothing() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 0.0)
    answered(camera, track(0.0, 20))
    (before,) = moving(camera, 0.1, 0.5)
    (after,) = answered(camera, track(0.0, 20))
    assert after == before


def test_a_hidden_object_is_lost_and_found_again_soon_after() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(0.0, 20))
    answered(camera, track(0.0, 20))
    (lost,) = camera.add(frame(0.1, 20, hidden=True))
    assert (lost.state, lost.stamp, left(lost)) == (TrackState.LOST, 0, 20.0)
    (found,) = camera.add(frame(0.3, 22))
    assert found.state is TrackState.PROPAGATED
    assert left(found) == pytest.approx(22, abs=1.0)


def test_after_a_longer_time_it_stays_lost_until_an_answer_shows_it() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(0.0, 20))
    answered(camera, track(0.0, 20))
    for n in range(1, 8):
        camera.add(frame(n / 10, 20, hidden=True))
    (lost,) = camera.add(frame(0.8, 20))
    assert lost.state is TrackState.LOST
    assert camera.counts.lost == 1
    assert not camera.has_tracks
    (found,) = answered(camera, track(0.8, 20))
    assert found.state is TrackState.GROUNDED


def test_a_box_is_not_carried_forever() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(0.0, 20))
    answered(camera, track(0.0, 20))
    found = None
    for n in range(1, round(MAX_SECONDS) + 1):
        found = camera.add(frame(n, 20))
        assert found is not None
        assert found[0].state is TrackState.PROPAGATED
    (lost,) = camera.add(frame(MAX_SECONDS + 0.1, 20)) or ()
    assert lost.state is TrackState.LOST


def test_what_the_model_lost_stays_lost_with_its_last_box() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 0.0)
    answered(camera, track(0.0, 20))
    moving(camera, 0.1, 1.0)
    (lost,) = answered(camera, track(0.0, 20, state=TrackState.LOST))
    assert (lost.state, lost.stamp) == (TrackState.LOST, SECOND)  # no jump back to 0.0 s
    (later,) = moving(camera, 1.1, 1.5)
    assert later == lost


def test_tracks_that_ended_and_removed_queries_are_not_carried() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(0.0, 20))
    assert len(answered(camera, track(0.0, 20), track(0.0, 20, 2, query="other"))) == 2
    camera.drop("other")
    assert [t.track_id for t in camera.add(frame(0.1, 22)) or ()] == [1]
    assert answered(camera) == ()
    assert camera.add(frame(0.2, 24)) == ()


def test_a_query_that_is_removed_during_the_replay_is_gone() -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 1.0)
    camera.set_tracks([track(0.0, 20)])
    camera.drop("q")
    assert camera.catch_up() == ()
    assert camera.add(frame(1.1, 42)) == ()


def test_an_answer_about_a_frame_that_is_not_kept_is_as_the_model_says() -> None:
    camera = CameraPropagation(1.0)
    for n in range(50, 61):
        camera.add(frame(n / 10, 20))
    old = track(1.0, 20)
    for _ in range(3):  # each tick lists it again until the next answer
        assert answered(camera, old) == (old,)
    assert camera.counts.without_picture == 1
    assert answered(camera, track(1.5, 20))
    assert camera.counts.without_picture == 2


def test_a_box_whose_picture_is_a_little_older_is_not_carried_back() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(1.0, 20))
    (found,) = answered(camera, track(1.1, 20))
    assert (found.state, found.stamp, found.confidence) == (TrackState.GROUNDED, 1_100_000_000, 0.8)
    (older,) = answered(camera, track(0.5, 20))  # and there is no picture of it: the old one stays
    assert older.confidence <= 0.8
    assert older.propagated_from is None


def test_late_and_implausible_frames_change_nothing() -> None:
    camera = CameraPropagation(1.0)
    camera.add(frame(1.0, 20))
    answered(camera, track(1.0, 20))
    assert camera.add(frame(0.9, 60)) is None
    assert camera.add(frame(1.0, 60)) is None
    assert camera.add(replace(frame(0.0, 60), stamp=-50 * SECOND)) is None
    (found,) = camera.add(frame(1.1, 20)) or ()
    assert left(found) == pytest.approx(20.0)
    assert camera.counts.late == 3


@pytest.mark.parametrize("jump", [-100.0, 0.0])
def test_a_new_stream_or_size_forgets_everything(jump: float) -> None:
    camera = CameraPropagation(1.0)
    for n in range(11):
        camera.add(frame(200 + n / 10, 40))
    answered(camera, track(201.0, 40))
    if jump:
        found = [camera.add(frame(201.0 + jump + n / 10, 20)) for n in range(6)]
    else:
        small = np.ascontiguousarray(image(20)[::2, ::2])
        found = [camera.add(Frame(small, 202 * SECOND, "cam"))]
    assert found[-1] == ()
    assert not camera.has_tracks


def test_the_history_is_bounded_in_time_and_memory() -> None:
    history = PictureHistory()
    for n in range(400):
        history.add(Picture(n * SECOND // 10, np.zeros((2, 2), np.uint8)))
    assert len(history.since(-1)) == HISTORY_SECONDS * 10 + 1
    assert history.evicted == 0
    side = 2048
    for n in range(20):
        history.add(Picture(40 * SECOND + n, np.zeros((side, side), np.uint8)))
    assert history.held_bytes <= HISTORY_BYTES
    assert history.evicted == 20 - HISTORY_BYTES // side**2
    assert history.held_bytes == sum(p.pixels.nbytes for p in history.since(-1))


def test_frames_that_arrive_during_the_replay_are_made_up_for(monkeypatch) -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 1.0)
    real, late = propagation.carry, iter(range(11, 16))

    def carry(before, after, boxes):
        n = next(late, None) if boxes and not camera._lock.locked() else None
        if n is not None:
            camera.add(frame(n / 10, place(n / 10)))
        return real(before, after, boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    (found,) = answered(camera, track(0.0, 20))
    assert (found.stamp, found.state) == (1_500_000_000, TrackState.PROPAGATED)
    assert left(found) == pytest.approx(place(1.5), abs=1.0)


def test_results_that_are_collected_during_the_replay_do_not_start_it_again(monkeypatch) -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 1.0)
    real, steps = propagation.carry, []

    def carry(before, after, boxes):
        steps.append(len(boxes))
        if len(steps) == 5:
            assert answered(camera, track(0.0, 20)) == (track(0.0, 20),)
        return real(before, after, boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    (found,) = answered(camera, track(0.0, 20))
    assert (found.stamp, found.state) == (SECOND, TrackState.PROPAGATED)
    assert steps == [1] * 10


def test_nothing_waits_while_boxes_are_carried(monkeypatch) -> None:
    """Image callbacks ask for ``has_tracks``; with many tracks a step takes a tenth of a second."""
    camera = CameraPropagation(1.0)
    camera.add(frame(0.0, 20))
    answered(camera, track(0.0, 20), track(0.0, 20, 2, query="other"))
    real, answers = propagation.carry, []

    def carry(before, after, boxes):
        def use() -> tuple[bool, int]:
            camera.set_tracks([track(0.0, 20)])
            camera.drop("other")
            return camera.has_tracks, camera.counts.late

        with ThreadPoolExecutor() as pool:
            answers.append(pool.submit(use).result(10))
        return real(before, after, boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    (found,) = camera.add(frame(0.1, 22)) or ()
    assert (found.track_id, found.state) == (1, TrackState.PROPAGATED)
    assert answers == [(True, 0)]


@pytest.mark.parametrize(("count", "steps"), [(1, 80), (20, 48)])
def test_a_long_replay_has_a_bounded_number_of_steps(monkeypatch, count: int, steps: int) -> None:
    """Of 240 pictures, every third: at most 90. With 20 tracks every fifth: at most 1000 / 20."""
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 4.0, rate=60)
    real, boxes_of_steps = propagation.carry, []

    def carry(before, after, boxes):
        boxes_of_steps.append(len(boxes))
        return real(before, after, boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    found, *_ = answered(camera, *(track(0.0, place(0.0), id) for id in range(count)))
    assert boxes_of_steps == [count] * steps
    assert (found.stamp, found.state) == (4 * SECOND, TrackState.PROPAGATED)
    assert left(found) == pytest.approx(place(4.0), abs=1.0)


def test_a_replay_that_is_slower_than_the_camera_ends(monkeypatch) -> None:
    """During each step another 8 images arrive."""
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 1.0, rate=240)
    steps, numbers = [], iter(range(241, 10_000))

    def carry(before, after, boxes):
        if not camera._add_lock.locked():
            steps.append(after)
            for _ in range(8):
                n = next(numbers)
                camera.add(frame(n / 240, 20))
        return list(boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    (found,) = answered(camera, track(0.0, place(0.0)))
    assert len(steps) <= 90 + 45 + 22 + 11
    assert found.stamp == (next(numbers) - 1) * SECOND // 240


def test_a_size_that_changes_during_the_replay_ends_it(monkeypatch) -> None:
    camera = CameraPropagation(1.0)
    moving(camera, 0.0, 1.0)
    real, small = propagation.carry, np.ascontiguousarray(image(20)[::2, ::2])
    changes = iter([1.1])

    def carry(before, after, boxes):
        seconds = next(changes, None)
        if seconds is not None:
            camera.add(Frame(small, round(seconds * SECOND), "cam"))
        return real(before, after, boxes)

    monkeypatch.setattr(propagation, "carry", carry)
    assert answered(camera, track(0.0, 20)) == ()
    assert not camera.has_tracks


def test_the_same_frames_and_answers_give_the_same_boxes() -> None:
    def run() -> list[Track]:
        camera = CameraPropagation(1.0)
        moving(camera, 0.0, 0.5)
        answered(camera, track(0.0, 20), track(0.2, place(0.2), 2))
        return list(moving(camera, 0.6, 1.5) or ())

    assert run() == run()
