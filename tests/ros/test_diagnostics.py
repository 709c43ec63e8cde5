"""Diagnostics: several reasons in one status, and summaries of durations."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.ros.diagnostics import (
    CameraHealth,
    DurationMeter,
    Reason,
    camera_status,
    combine,
    stamp_reasons,
)
from llava_st_ros.ros.intake import IntakeCounts
from llava_st_ros.streaming.frame_buffer import StreamCounts, StreamReport
from llava_st_ros.streaming.stream_clock import ClockJump

pytestmark = pytest.mark.ros
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_worst_level_counts_and_every_reason_is_in_the_message() -> None:
    assert combine((), "active") == (DiagnosticStatus.OK, "active")
    reasons = [Reason(WARN, "slow"), Reason(ERROR, "hung"), Reason(WARN, "late")]
    assert combine(reasons, "active") == (ERROR, "hung; slow; late")


def test_silent_camera_with_bad_images_reports_both() -> None:
    health = CameraHealth(
        name="front",
        topic="/front",
        publishers=1,
        reliability="reliable",
        silence=3.0,
        counts=IntakeCounts(5, unreadable=2),
        previous=IntakeCounts(),
        interval=1.0,
        last_problem="cut short",
    )
    status = camera_status("/grounding", health, silence_limit=2.0)
    assert status.level == WARN
    assert status.message == "waiting for images on /front (1 publisher); 2 bad images: cut short"


def test_durations_are_summarized_since_the_last_drain() -> None:
    meter = DurationMeter()
    for seconds in (1.0, 4.0, 1.0):
        meter.add(seconds)
    assert str(meter.drain()) == "mean 2.000 s, max 4.000 s over 3"
    assert str(meter.drain()) == "none"


def test_wrong_stamps_are_warnings_with_their_counts() -> None:
    def texts(stream: StreamReport, previous: StreamReport) -> list[str]:
        return [reason.text for reason in stamp_reasons(stream, previous)]

    before = StreamReport(StreamCounts(received=100, duplicates=1, implausible=2, resets=1))
    jump = ClockJump(5_000_000_000, 2_000_000_000)
    after = StreamReport(
        StreamCounts(received=110, duplicates=9, implausible=5, resets=2), (jump,), jump
    )
    assert texts(after, before) == [
        "the clock of the stamps jumped 3.000 s back, from 5.000 to 2.000 s; a new stream has "
        "started",
        "3 images set aside for an implausible stamp: 3.000 s back, from 5.000 to 2.000 s",
        "8 images repeat an earlier stamp",
    ]
    assert texts(after, after) == []
    assert texts(StreamReport(StreamCounts(received=3)), after) == []  # activated again
