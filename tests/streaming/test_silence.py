"""Which cameras are silent, by a clock that the tests set."""

from __future__ import annotations

import pytest

from llava_st_ros.streaming.silence import SilenceMonitor

SECOND = 10**9


class Cameras:
    """A monitor and its clock, which advances in steps of 0.1 s."""

    def __init__(self) -> None:
        self.now = 5 * SECOND
        self.monitor = SilenceMonitor(lambda: self.now)

    def run(self, seconds: float, intervals: dict[str, float], timeout: float = 2.0) -> list[float]:
        """Let cameras send an image each interval; return when each check found camera 'a' silent.

        Args:
            seconds: How long.
            intervals: Of each camera that sends images, in seconds.
            timeout: Of the camera, in seconds.
        """
        found = []
        for step in range(1, round(seconds * 10) + 1):
            self.now += SECOND // 10
            for camera, interval in intervals.items():
                if step % round(interval * 10) == 0:
                    self.monitor.arrived(camera)
            if "a" in self.monitor.silent(round(timeout * SECOND)):
                found.append(step / 10)
        return found


def test_a_camera_is_silent_after_the_timeout_and_until_its_next_image():
    cameras = Cameras()
    assert cameras.run(5.0, {"a": 0.1, "b": 0.1}) == []
    assert cameras.run(3.0, {"b": 0.1})[0] == pytest.approx(2.1)
    assert cameras.monitor.silent(2 * SECOND) == {"a": 3 * SECOND}
    assert cameras.run(5.0, {"a": 0.1, "b": 0.1}) == []  # the first image ends it


def test_a_camera_that_never_sent_an_image_is_not_silent():
    assert Cameras().monitor.silent(0) == {}


def test_a_slow_camera_is_silent_after_three_of_its_intervals():
    """Also a bag that is played slowly, or a low frame rate. The first interval is unknown."""
    cameras = Cameras()
    cameras.run(5.0, {"a": 5.0})
    assert cameras.run(40.0, {"a": 5.0}) == pytest.approx([2.1 + i / 10 for i in range(29)])
    assert cameras.run(16.0, {})[0] == pytest.approx(15.1)


def test_one_long_silence_does_not_make_a_camera_slow():
    cameras = Cameras()
    cameras.run(1.0, {"a": 0.1})
    cameras.run(60.0, {})
    cameras.run(0.5, {"a": 0.1})
    assert cameras.run(3.0, {})[0] == pytest.approx(2.1)


def test_a_clock_that_stands_still_jumps_or_is_not_read_is_no_silence():
    """As in a paused or restarted simulation, a stopped process, a suspended machine."""
    cameras = Cameras()
    cameras.run(1.0, {"a": 0.1})
    for jump in (0, -3600 * SECOND, 3600 * SECOND):
        cameras.now += jump
        assert cameras.monitor.silent(2 * SECOND) == {}
        cameras.run(0.1, {"a": 0.1})
    for _ in range(100):  # paused
        assert cameras.monitor.silent(2 * SECOND) == {}


def test_cleared_cameras_are_forgotten():
    cameras = Cameras()
    cameras.run(1.0, {"a": 0.1})
    cameras.monitor.clear()
    assert cameras.run(10.0, {}) == []
