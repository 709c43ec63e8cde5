"""Tracks between two ticks of a Grounder: what is removed, lost or ended is not carried on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import EndReason, Frame, Query, Task, Track, TrackState
from support.red_box_backend import STEP_X, red_box_backend, red_box_image

SECOND = 10**9
BOX = Query("box", "the red box", Task.REC, period=60.0)
FIRST = {"left": 20, "right": 50}  # raster steps; left side of the box in frame 0
MOVE = {"left": 1, "right": -1}  # raster steps a frame


def frame(camera: str, number: int) -> Frame:
    left = FIRST[camera] + MOVE[camera] * number
    image = red_box_image(left, 20, left + 30, 60)
    return Frame(image, SECOND + number * SECOND // 10, camera, camera)


@pytest.fixture
def grounder() -> Grounder:
    """With a query that is answered about frame 0 of both cameras, and then not for a minute."""
    backend = red_box_backend()
    found = Grounder(backend, backend.tokenizer, GrounderConfig(StreamConfig(history=0.0)))
    found.add_query(BOX)
    for camera in FIRST:
        found.push(frame(camera, 0))
        found.propagate(frame(camera, 0))
    assert {track.state for track in found.tick().tracks} == {TrackState.GROUNDED}
    return found


def sides(tracks: tuple[Track, ...] | None) -> dict[str, float]:
    """The left sides in raster steps, by camera."""
    return {track.camera: track.box.x1 * track.width / STEP_X for track in tracks or ()}


def test_tracks_of_several_cameras_are_carried_by_their_own_frames(grounder: Grounder) -> None:
    found: dict[str, tuple[Track, ...] | None] = {}
    for number in range(1, 11):
        for camera in FIRST:
            found[camera] = grounder.propagate(frame(camera, number))
    assert sides(found["left"]) == pytest.approx({"left": 30.0}, abs=0.3)
    assert sides(found["right"]) == pytest.approx({"right": 40.0}, abs=0.3)
    both = grounder.collect().tracks
    assert sides(both) == pytest.approx({"left": 30.0, "right": 40.0}, abs=0.3)
    assert {t.state for t in both} == {TrackState.PROPAGATED}
    grounder.stop_propagation("left")
    assert sides(grounder.carried(both)) == sides(both)  # as they were
    states = {t.camera: t.state for t in grounder.collect().tracks}
    assert states == {"left": TrackState.GROUNDED, "right": TrackState.PROPAGATED}


def remove(grounder: Grounder) -> None:
    grounder.remove_query("box")


def replace_query(grounder: Grounder) -> None:
    grounder.add_query(Query("box", "the blue box", Task.REC, period=60.0))


@pytest.mark.parametrize("end", [remove, replace_query])
def test_tracks_of_a_removed_query_are_not_carried_even_before_the_next_tick(
    grounder: Grounder, end: Callable[[Grounder], None]
) -> None:
    grounder.add_query(Query("other", "the red thing", Task.REC, period=60.0))
    grounder.tick()
    assert len(grounder.propagate(frame("left", 1)) or ()) == 2
    end(grounder)
    assert [t.query_id for t in grounder.propagate(frame("left", 2)) or ()] == ["other"]
    assert [t.query_id for t in grounder.propagate(frame("right", 2)) or ()] == ["other"]
    grounder.remove_query("other")
    assert grounder.propagate(frame("left", 3)) == ()
    assert not grounder.is_propagating("left")
    assert grounder.collect().tracks == ()


def test_tracks_that_have_ended_are_not_carried(grounder: Grounder) -> None:
    assert sides(grounder.propagate(frame("left", 1))) == pytest.approx({"left": 21.0}, abs=0.3)
    grounder.stop(EndReason.DEACTIVATED)
    assert grounder.collect().tracks == ()
    assert grounder.propagate(frame("left", 2)) == ()


def test_tracks_of_a_silent_camera_are_lost_where_they_were_carried_to(grounder: Grounder) -> None:
    grounder.propagate(frame("left", 1))
    grounder.set_silence("left", 2 * SECOND)
    (lost,) = (t for t in grounder.collect().tracks if t.camera == "left")
    assert (lost.state, lost.stamp) == (TrackState.LOST, frame("left", 1).stamp)
    assert not grounder.is_propagating("left")
    assert grounder.is_propagating("right")
    grounder.set_silence("left", 60 * SECOND)
    assert [t.camera for t in grounder.collect().tracks] == ["right"]
    assert grounder.propagate(frame("left", 2)) == ()
