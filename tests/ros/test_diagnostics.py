"""Diagnostics: several reasons in one status, and summaries of durations."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.ros.diagnostics import CameraHealth, DurationMeter, Reason, camera_status, combine
from llava_st_ros.ros.intake import IntakeCounts

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
    assert status.message == "waiting for images on /front (1 publishers); 2 bad images: cut short"


def test_durations_are_summarized_since_the_last_drain() -> None:
    meter = DurationMeter()
    for seconds in (1.0, 4.0, 1.0):
        meter.add(seconds)
    assert str(meter.drain()) == "mean 2.000 s, max 4.000 s over 3"
    assert str(meter.drain()) == "none"
