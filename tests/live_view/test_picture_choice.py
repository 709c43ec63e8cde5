"""Which images are shown, with which tracks: on a clock of the test."""

from __future__ import annotations

from typing import Any

import pytest

from llava_st_ros.live_view.picture_choice import HOLD_S, MAX_WAITING, Picture, PictureChoice
from support.manual_clock import ManualClock

TENTH = 100_000_000


@pytest.fixture
def choice(clock: ManualClock) -> PictureChoice:
    return PictureChoice(10.0, clock)


def tracks(stamp: int, state: str = "PROPAGATED", number: int = 1) -> dict[str, Any]:
    return {"camera": "front", "stamp": stamp, "tracks": [{"track_id": number, "state": state}]}


def picture(stamp: int) -> Picture:
    return Picture(stamp, lambda: b"")


def show(choice: PictureChoice) -> tuple[int | None, int | None] | None:
    """The stamps of what is shown next."""
    shown = choice.next()
    if shown is None:
        return None
    return (
        None if shown.picture is None else shown.picture.stamp,
        None if shown.tracks is None else shown.tracks["stamp"],
    )


def test_without_tracks_no_image_waits(choice: PictureChoice, clock: ManualClock) -> None:
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, None)
    assert show(choice) is None
    choice.add_tracks({"camera": "front", "stamp": TENTH, "tracks": []})
    clock.now += 0.1
    assert show(choice) == (None, TENTH)
    choice.add_picture(picture(2 * TENTH))
    clock.now += 0.1
    assert show(choice) == (2 * TENTH, TENTH)


def test_an_image_waits_for_its_tracks(choice: PictureChoice, clock: ManualClock) -> None:
    choice.add_tracks(tracks(TENTH))
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, TENTH)
    clock.now += 0.1
    choice.add_picture(picture(2 * TENTH))
    assert show(choice) is None
    choice.add_picture(picture(3 * TENTH))
    choice.add_tracks(tracks(2 * TENTH))
    assert show(choice) == (2 * TENTH, 2 * TENTH)
    clock.now += 0.1
    assert show(choice) is None
    choice.add_tracks(tracks(3 * TENTH))
    assert show(choice) == (3 * TENTH, 3 * TENTH)


@pytest.mark.parametrize("state", ["PROPAGATED", "GROUNDED"])
def test_an_image_whose_tracks_do_not_come_is_shown_later(
    choice: PictureChoice, clock: ManualClock, state: str
) -> None:
    choice.add_tracks(tracks(TENTH, state))
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, TENTH)
    choice.add_picture(picture(2 * TENTH))
    clock.now += HOLD_S - 0.01
    assert show(choice) is None
    choice.add_picture(picture(3 * TENTH))
    clock.now += 0.01
    assert show(choice) == (2 * TENTH, TENTH)  # the boxes of an older image: the page says so


def test_no_image_waits_for_lost_tracks(choice: PictureChoice, clock: ManualClock) -> None:
    choice.add_tracks(tracks(TENTH, "LOST"))
    choice.add_picture(picture(3 * TENTH))
    assert show(choice) == (3 * TENTH, TENTH)


def test_images_between_those_with_tracks_are_left_out(
    choice: PictureChoice, clock: ManualClock
) -> None:
    """Tracks at 10 Hz of a camera at 30 Hz: the images that have tracks are shown."""
    third = TENTH // 3
    shown = []
    for number in range(1, 31):
        choice.add_picture(picture(number * third))
        if number % 3 == 2:
            choice.add_tracks(tracks(number * third))
        shown.append(show(choice))
        clock.now += 1 / 30
    assert [one for one in shown if one] == [
        (third, None),
        *((number * third, number * third) for number in range(2, 29, 3)),
    ]


def test_the_rate_is_limited(choice: PictureChoice, clock: ManualClock) -> None:
    shown = 0
    for number in range(1, 301):  # 10 s of 30 Hz
        choice.add_picture(picture(number * TENTH // 3))
        shown += show(choice) is not None
        clock.now += 1 / 30
    assert shown == 100
    for number in range(301, 401):  # 10 Hz, a little irregular
        clock.now += 0.1 + (0.004 if number % 2 else -0.004)
        choice.add_picture(picture(number * TENTH // 3))
        shown += show(choice) is not None
    assert shown == 200


def test_tracks_of_the_shown_image_are_shown_at_once(
    choice: PictureChoice, clock: ManualClock
) -> None:
    """A camera that is silent: its tracks become LOST on the last image, then there are none."""
    choice.add_tracks(tracks(TENTH))
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, TENTH)
    clock.now += 5
    choice.add_tracks(tracks(TENTH, "LOST"))
    shown = choice.next()
    assert shown is not None and shown.picture is None
    assert shown.tracks == tracks(TENTH, "LOST")
    assert show(choice) is None


def test_tracks_wait_for_their_image_but_not_long(
    choice: PictureChoice, clock: ManualClock
) -> None:
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, None)
    clock.now += 0.1
    choice.add_tracks(tracks(2 * TENTH))
    assert show(choice) is None
    clock.now += HOLD_S + 0.01
    assert show(choice) == (None, 2 * TENTH)


def test_another_stream_starts(choice: PictureChoice, clock: ManualClock) -> None:
    choice.add_tracks(tracks(50 * TENTH))
    choice.add_picture(picture(50 * TENTH))
    assert show(choice) == (50 * TENTH, 50 * TENTH)
    clock.now += 0.1
    choice.add_picture(picture(TENTH))
    assert show(choice) == (TENTH, None)
    choice.add_tracks(tracks(2 * TENTH))
    clock.now += 0.1
    choice.add_picture(picture(2 * TENTH))
    assert show(choice) == (2 * TENTH, 2 * TENTH)


def test_images_without_stamps_are_shown(choice: PictureChoice, clock: ManualClock) -> None:
    for _ in range(3):
        choice.add_picture(picture(0))
        assert show(choice) == (0, None)
        clock.now += 0.1


def test_memory_is_bounded(choice: PictureChoice) -> None:
    choice.add_tracks(tracks(1))
    for number in range(2, 500):
        choice.add_picture(picture(number))
        choice.add_tracks(tracks(number * 1000))
    assert len(choice._waiting) == MAX_WAITING and len(choice._tracks) <= 64
