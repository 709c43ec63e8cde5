"""StreamClock: wrong stamps are held and dropped, a clock that jumps starts a new stream once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llava_st_ros.records import Frame
from llava_st_ros.streaming.stream_clock import CONFIRMATIONS, ClockJump, StreamClock

SECOND = 10**9
EPOCH = 1_700_000_000.0
IMAGE = np.zeros((2, 2, 3), np.uint8)


def frame(stamp: float, arrival: float | None = None) -> Frame:
    at = None if arrival is None else round(arrival * SECOND)
    return Frame(IMAGE, round(stamp * SECOND), arrival=at)


class Stream:
    """Feeds a clock and records what it decides; times in seconds."""

    def __init__(self, reset_seconds: float = 1.0) -> None:
        self.clock = StreamClock(reset_seconds)
        self.accepted: list[float] = []
        self.jumps: list[ClockJump] = []
        self.dropped = 0

    def add(self, stamp: float, arrival: float | None = None) -> None:
        admission = self.clock.admit(frame(stamp, arrival))
        self.accepted += [f.stamp / SECOND for f in admission.frames]
        self.jumps += [admission.jump] if admission.jump else []
        self.dropped += admission.dropped

    def play(
        self, start: float, seconds: float, *, arrival: float, hz: float = 10.0, rate: float = 1.0
    ) -> None:
        """Add a stream whose stamps advance ``rate`` times as fast as its arrivals."""
        for i in range(round(seconds * hz)):
            self.add(start + i / hz, arrival + i / hz / rate)


@pytest.mark.parametrize("wrong", [EPOCH + 3600, EPOCH + 8, EPOCH - 3600, 0.0, -5.0, 2.0**31])
@pytest.mark.parametrize("count", [1, CONFIRMATIONS - 1])
def test_wrong_stamps_are_dropped_and_the_stream_goes_on(wrong: float, count: int) -> None:
    stream = Stream()
    stream.play(EPOCH, 3.0, arrival=50.0)
    for i in range(count):
        stream.add(wrong + i / 10, 53.0 + i / 10)
    stream.play(EPOCH + 3.5, 3.0, arrival=53.5)
    assert len(stream.accepted) == 60
    assert max(stream.accepted) < EPOCH + 7
    assert (stream.jumps, stream.dropped) == ([], count)


@pytest.mark.parametrize("start", [EPOCH + 3600, EPOCH - 3600, 0.0])
def test_a_clock_that_jumps_starts_one_new_stream_without_loss(start: float) -> None:
    stream = Stream()
    stream.play(EPOCH, 3.0, arrival=50.0)
    stream.play(start, 3.0, arrival=53.0)
    assert stream.jumps == [ClockJump(round((EPOCH + 2.9) * SECOND), round(start * SECOND))]
    assert len(stream.accepted) == 60
    assert stream.dropped == 0


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_first_frames_of_another_clock_need_no_more_than_their_own_number(wrong: int) -> None:
    stream = Stream()
    stream.play(EPOCH + 300, wrong / 10, arrival=50.0)
    stream.play(EPOCH, (wrong + 1) / 10, arrival=50.5)
    assert len(stream.jumps) == 1
    assert stream.accepted[wrong:] == pytest.approx([EPOCH + i / 10 for i in range(wrong + 1)])


def test_two_publishers_with_different_clocks_do_not_alternate() -> None:
    stream = Stream()
    for i in range(50):
        stream.add(EPOCH + i / 10, 50 + i / 10)
        stream.add(40.0 + i / 10, 50.05 + i / 10)
    assert stream.jumps == []
    assert len(stream.accepted) == 50


def test_stamps_at_random_never_start_a_stream() -> None:
    rng, stream = random.Random(0), Stream()
    stream.play(EPOCH, 2.0, arrival=50.0)
    for i in range(100):
        stream.add(rng.uniform(0, 2.0**31), 52.0 + i / 10)
    stream.play(EPOCH + 12.0, 2.0, arrival=62.0)
    assert len(stream.accepted) == 40
    assert (stream.jumps, stream.dropped) == ([], 100)


@pytest.mark.parametrize("hz", [0.2, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0, 3.0, 20.0])
def test_any_rate_of_frames_and_of_playing_is_plausible(hz: float, rate: float) -> None:
    stream = Stream()
    stream.play(EPOCH, 100 / hz, arrival=50.0, hz=hz, rate=rate)
    assert stream.jumps == []
    assert stream.dropped == 0
    assert len(stream.accepted) == 100


def test_pauses_lost_frames_and_bursts_are_plausible() -> None:
    stream, rng, arrival = Stream(), random.Random(1), 0.0
    for i in range(600):
        if rng.random() < 0.5:
            continue  # lost
        if 200 <= i < 240:
            continue  # the camera pauses
        late = 3.0 if 300 <= i < 330 else rng.uniform(0.0, 0.3)  # the network stalls
        arrival = max(arrival, i / 10 + late)
        stream.add(EPOCH + i / 10, 50 + arrival)
    assert stream.jumps == []
    assert stream.dropped == 0


def test_without_times_of_arrival_every_later_stamp_is_plausible() -> None:
    for arrival in (None, 7.0):  # unknown, or the same for every frame
        stream = Stream()
        for i in range(10):
            stream.add(i / 10, arrival)
        stream.add(500.0, arrival)
        assert stream.accepted[-1] == 500.0
        assert stream.jumps == []


def test_a_short_reset_time_does_not_hold_back_jittery_frames() -> None:
    rng, stream = random.Random(2), Stream(reset_seconds=0.001)
    for i in range(200):
        stream.add(EPOCH + i / 10, 50 + i / 10 + rng.uniform(0.0, 0.08))
    assert len(stream.accepted) == 200


def test_lost_frames_of_a_fast_stream_hold_nothing_back() -> None:
    stream = Stream()
    stream.play(100.0, 40.0, arrival=50.0, hz=2.0, rate=10.0)
    stream.add(145.0, 54.5)  # ten frames are lost: 5 s of stamps, 0.5 s of arrivals
    assert stream.accepted[-1] == 145.0
    assert (stream.jumps, stream.dropped) == ([], 0)
