"""StreamTime: the time on each camera's own clock, from stamps alone."""

from __future__ import annotations

from llava_st_ros.streaming.stream_time import StreamTime


def test_each_camera_has_its_own_clock() -> None:
    time = StreamTime()
    for i in range(10):
        time.update({"a": (0, 1000 + i), "b": (0, 500_000 + i)})
        assert (time.now("a"), time.now("b")) == (1000 + i, 500_000 + i)
        assert time.elapsed == i


def test_alternating_cameras_count_their_common_time_once() -> None:
    time = StreamTime()
    a, b = 0, 7000
    time.update({"a": (0, a), "b": (0, b)})
    for _ in range(50):
        a += 10
        time.update({"a": (0, a), "b": (0, b)})
        b += 10
        time.update({"a": (0, a), "b": (0, b)})
    assert time.elapsed == 500


def test_time_passes_on_a_silent_camera_as_on_the_others() -> None:
    time = StreamTime()
    time.update({"a": (0, 100), "b": (0, 900)})
    time.update({"a": (0, 100), "b": (0, 960)})
    assert time.now("a") == 160
    time.update({"a": (0, 165), "b": (0, 970)})
    assert time.now("a") == 165
    time.update({"a": (0, 165), "b": (0, 970)})
    assert (time.now("a"), time.now("b"), time.elapsed) == (165, 970, 70)


def test_a_clock_that_jumps_advances_nothing() -> None:
    time = StreamTime()
    time.update({"a": (0, 100), "b": (0, 100)})
    time.update({"a": (1, 10**12), "b": (0, 110)})
    assert (time.now("a"), time.now("b"), time.elapsed) == (10**12, 110, 10)
    time.update({"a": (2, 5), "b": (0, 120)})
    assert (time.now("a"), time.now("b"), time.elapsed) == (5, 120, 20)


def test_a_camera_whose_clock_runs_faster_moves_no_other_clock() -> None:
    time = StreamTime()
    for i in range(1000):
        time.update({"a": (0, 11 * i), "b": (0, 10 * i)})
    assert time.now("b") == 9990


def test_time_also_passes_with_the_clock_of_the_caller() -> None:
    time = StreamTime()
    time.update({"a": (0, 100)}, 5000)
    time.update({"a": (0, 104)}, 5025)  # the newest frame is 21 old
    assert time.now("a") == 125
    time.update({"a": (0, 104)}, 5030)
    assert (time.now("a"), time.elapsed) == (130, 30)
    time.update({"a": (0, 160)}, 3)  # the caller's clock was set back
    assert time.now("a") == 160
