"""Stamps that no clock would give: far ahead, backwards, equal, of two clocks, zero."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from llava_st_ros import msg
from llava_st_ros.ros.conversions import stamp_from_msg
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros
SECOND = 10**9


def test_one_wrong_stamp_starves_no_camera_and_is_reported(client: ClientNode, start_node) -> None:
    """Injected: one image of a camera that is stamped an hour ahead, as of a wrong clock.
    Published: answers of both cameras, from the stamps of their own streams.
    Logged: WARN with the count and how far ahead it is; diagnostics WARN.
    """
    answers = client.collect(msg.Answer, "grounding/answers")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(cameras=["a", "b"], queries=["the red box"], default_period=0.2)
    cameras = {name: client.camera(name) for name in "ab"}
    start = time.time_ns()

    def publish(*names: str, ahead: int = 0) -> None:
        stamp = time.time_ns() + ahead * SECOND
        for name in names:
            cameras[name].publish(image_message(red_box_image(10, 10, 30, 30), stamp))

    def answered(name: str) -> list[int]:
        return [stamp_from_msg(a.header.stamp) for a in list(answers) if a.camera == name]

    client.publish_until(lambda: publish("a", "b"), lambda: answered("a") and answered("b"), "both")
    publish("a", ahead=3600)
    line = client.wait_log("/a: 1 images set aside for an implausible stamp: 3600.")
    assert "s ahead" in line
    seen = len(answered("b"))
    client.publish_until(lambda: publish("b"), lambda: len(answered("b")) > seen + 3, "b alone")
    seen = len(answered("a"))
    client.publish_until(lambda: publish("a"), lambda: len(answered("a")) > seen + 3, "a again")
    assert max(answered("a")) < start + 100 * SECOND

    def reported() -> bool:
        statuses = [s for d in list(diagnostics) for s in d.status if s.name.endswith("camera a")]
        return any(
            s.level == DiagnosticStatus.WARN
            and "implausible stamp" in s.message
            and {v.key: v.value for v in s.values}["dropped, implausible stamp"] == "1"
            for s in statuses
        )

    client.wait(reported, "the warning in the diagnostics")


def test_stamps_that_jump_back_start_a_new_stream(client: ClientNode, start_node) -> None:
    """Injected: a clock that jumps back for good: a bag is played from 5000 s, and then another
        from 100 s.
    Published: tracks of the new stream, with new ids and no box of the old one.
    Logged: WARN that the clock has jumped.
    """
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"], default_period=0.2)
    camera = client.camera("image")
    for first, left in ((5_000 * SECOND, 10), (100 * SECOND, 60)):
        stamps = iter(range(first, first + 1_000 * SECOND, SECOND // 10))
        seen = len(arrays)

        def publish_image(stamps=stamps, left=left) -> None:
            camera.publish(image_message(red_box_image(left, 10, left + 20, 30), next(stamps)))

        def tracked(seen=seen, first=first) -> bool:
            new = [t for a in list(arrays[seen:]) for t in a.tracks]
            return any(first <= stamp_from_msg(t.header.stamp) < first + 10**12 for t in new)

        client.publish_until(publish_image, tracked, f"a track at {first / SECOND} s")
    after = [t for a in arrays for t in a.tracks if stamp_from_msg(t.header.stamp) < 1_000 * SECOND]
    before = [t for a in arrays for t in a.tracks if t not in after]
    assert {t.track_id for t in after}.isdisjoint({t.track_id for t in before})
    for track in after:
        stamps = [stamp_from_msg(b.stamp) for b in track.tube]
        assert stamps == sorted(stamps)
        assert stamps[-1] < 1_000 * SECOND  # no box of the first stream
    client.wait_log("the clock of the stamps jumped", "a new stream has started")


def test_equal_stamps_are_reported_at_the_default_frame_rate(
    client: ClientNode, start_node
) -> None:
    """Injected: a camera that repeats one stamp.
    Published: nothing new: no image continues the stream.
    Logged: WARN with the count.
    """
    start_node(max_frame_rate=15.0)
    camera = client.camera("image")
    client.publish_until(
        lambda: camera.publish(image_message(red_box_image(10, 20, 30, 50), 10**12)),
        lambda: any("images repeat an earlier stamp" in line for line in client.log_lines()),
        "a warning about repeated stamps",
    )


def test_the_images_of_a_second_clock_on_one_topic_are_dropped(
    client: ClientNode, start_node
) -> None:
    """Injected: two publishers on one topic in turns, whose clocks differ by hours.
    Published: tracks at the stamps of the first clock only, which do not go back.
    Logged: WARN with the count and the difference; diagnostics count them.
    """
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    (camera,) = start_node(queries=["the red box"], default_period=0.2)._cameras
    publishers = client.camera("image"), client.camera("image")
    clocks = (
        iter(range(10**12, 10**13, SECOND // 10)),
        iter(range(10**13, 2 * 10**13, SECOND // 10)),
    )

    def publish_image(number: int) -> None:
        image = red_box_image(10, 10, 30, 30)
        publishers[number].publish(image_message(image, next(clocks[number])))

    def publish_both() -> None:
        for number in (0, 1):
            publish_image(number)

    client.publish_until(
        lambda: publish_image(0), lambda: any(a.tracks for a in list(arrays)), "a track before"
    )
    client.publish_until(
        publish_both,
        lambda: camera.intake.counts.received > 60 and any(a.tracks for a in arrays[-5:]),
        "tracks beside the second clock",
    )
    client.wait_log("/image: ", "set aside for an implausible stamp", "s ahead")
    stamps = [stamp_from_msg(array.header.stamp) for array in list(arrays)]
    assert max(stamps) < 10**13
    assert stamps == sorted(stamps)

    def dropped() -> int:
        values = [v for s in diagnostics[-1].status for v in s.values] if diagnostics else []
        found = [v.value for v in values if v.key == "dropped, implausible stamp"]
        return int(found[-1]) if found else 0

    client.wait(lambda: dropped() >= 20, "the count in the diagnostics")
