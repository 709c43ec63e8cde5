"""Diagnostics: several reasons in one status, and summaries of durations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from llava_st_ros import msg
from llava_st_ros.records import Query, Task
from llava_st_ros.ros.diagnostics import (
    RECENT_DURATIONS,
    CameraHealth,
    DurationMeter,
    Reason,
    camera_status,
    combine,
    stamp_reasons,
)
from llava_st_ros.ros.intake import IntakeCounts
from llava_st_ros.ros.node import GroundingNode
from llava_st_ros.ros.query_health import history_reasons
from llava_st_ros.streaming.frame_buffer import StreamCounts, StreamReport
from llava_st_ros.streaming.stream_clock import ClockJump
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

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


def test_a_slow_camera_is_waited_for_longer(client: ClientNode, start_node) -> None:
    """Three times the median of its intervals; a message sets the time of the last one."""
    node = start_node()
    (camera,) = node._cameras
    assert camera.silence_limit(2.0) == 2.0
    for _ in range(3):
        camera._receive(image_message(red_box_image(1, 1, 2, 2), 10**12))
        camera._last_arrival -= 5.0
    assert camera.silence_limit(2.0) == pytest.approx(15.0, abs=1.0)
    assert camera.silence_limit(20.0) == 20.0
    assert camera.silence < camera.silence_limit(2.0)
    camera.warn_if_silent(2.0)
    node.get_logger().info("the end")
    client.wait_log("the end")
    assert not any("waiting for images" in line for line in client.log_lines())


def test_the_delay_of_images_is_measured_unless_their_stamps_are_of_another_clock(
    start_node: Callable[..., GroundingNode],
) -> None:
    node = start_node()
    (camera,) = node._cameras
    now = node.get_clock().now().nanoseconds
    for seconds in (5, 10, 10**5, -(10**5)):
        camera._receive(image_message(red_box_image(1, 1, 2, 2), now - seconds * 10**9))
    delays = camera.delays.drain()
    assert delays.count == 2
    assert 7.5 <= delays.mean < 60.0
    assert 10.0 <= delays.maximum < 60.0


def test_durations_are_summarized_since_the_last_drain() -> None:
    meter = DurationMeter()
    for seconds in (1.0, 4.0, 1.0):
        meter.add(seconds)
    text = "mean 2.0000 s, max 4.0000 s over 3; p99 3.9400 s of the last 3"
    assert str(meter.drain()) == text
    assert str(meter.drain()) == "none"


def test_the_99th_percentile_of_durations_is_of_the_last_thousand() -> None:
    meter = DurationMeter()
    for _ in range(100):
        meter.add(1e6)
    meter.drain()
    for seconds in range(RECENT_DURATIONS - 1):
        meter.add(0.001 * seconds)
    assert meter.drain().p99 < 1.0  # one of a thousand does not count
    meter.add(0.5)
    summary = meter.drain()
    assert (summary.count, summary.maximum, summary.recent) == (1, 0.5, RECENT_DURATIONS)
    assert summary.p99 == pytest.approx(0.988, abs=0.002)


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


def test_a_buffer_without_room_for_the_window_is_a_warning() -> None:
    (reason,) = stamp_reasons(StreamReport(StreamCounts(9, discarded=4, evicted=4)), StreamReport())
    assert reason.text == "4 images of the window had no room; raise buffer_megabytes"


def test_video_queries_that_wait_for_a_window_that_never_fills_are_a_warning() -> None:
    seconds = 10**9
    streams = {
        "slow": StreamReport(covered=0, required=5 * seconds, unfilled=11 * seconds),
        "filling": StreamReport(covered=2 * seconds, required=5 * seconds, unfilled=2 * seconds),
    }
    video, image = Query("a ball rolls", "v", Task.STVG), Query("a ball", "i", Task.REC)
    (reason,) = history_reasons([video, image], streams)
    assert reason.level == WARN
    assert reason.text.startswith(
        "1 video queries are not evaluated on camera 'slow': its frames cover 0.0 of the 5.0 s"
    )
    assert not list(history_reasons([image], streams))
    assert not list(history_reasons([replace(video, cameras=("filling",))], streams))


def test_diagnostics_of_a_node_activated_again_and_of_stamps_of_another_clock(
    client: ClientNode, start_node: Callable[..., GroundingNode]
) -> None:
    arrays = client.collect(DiagnosticArray, "/diagnostics")
    answers = client.collect(msg.Answer, "grounding/answers")
    node = start_node(queries=['{"text": "the red box", "task": "REC", "period": 0.1}'])
    camera, stamps = client.camera("image"), iter(range(10**12, 10**13, 10**8))

    def publish_image() -> None:
        camera.publish(image_message(red_box_image(10, 20, 30, 50), next(stamps)))

    def statuses() -> list[dict[str, str]]:
        return [{v.key: v.value for v in s.values} for a in list(arrays) for s in a.status]

    client.publish_until(
        publish_image,
        lambda: any(int(s.get("received", 0)) > 20 for s in statuses()) and answers,
        "diagnostics that count images",
    )
    cameras = [s for s in statuses() if "received" in s]
    callbacks = [s["duration of callbacks"] for s in cameras]
    measured = [int(text.split(" over ")[1].split(";")[0]) for text in callbacks if text != "none"]
    assert sum(measured) == int(cameras[-1]["received"])  # each image once
    assert {s["delay from stamp to callback"] for s in cameras} == {"none"}  # stamps of 1970
    node.trigger_deactivate()
    node.trigger_activate()  # before the next diagnostics
    arrays.clear()
    client.publish_until(publish_image, lambda: len(arrays) > 1, "diagnostics")
    assert all(float(s["rate (Hz)"]) >= 0 for s in statuses() if "rate (Hz)" in s)
    models = [s for s in statuses() if "cameras with stamps of another clock" in s]
    assert models[-1]["cameras with stamps of another clock"] == "camera"
    assert models[-1]["latency from stamp to publication"] == "none"
