"""Incompatible QoS and missing images are reported; times are those of the stamps' clock."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros import msg
from llava_st_ros.ros.conversions import stamp_to_msg
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros
SECOND = 10**9


def test_incompatible_subscription_is_logged_with_both_policies(
    client: ClientNode, start_node
) -> None:
    start_node()
    wanted = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.collect(msg.GroundedTrackArray, "tracks", wanted)
    line = client.wait_log("incompatible QoS on /tracks")
    assert "DURABILITY: this node offers volatile, requested is transient_local by /client" in line


def test_reliability_follows_the_publishers(client: ClientNode, start_node) -> None:
    """Reliable while every publisher is; images of a best-effort one that appears later arrive."""
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    node = start_node(queries=["the red box"], default_period=0.05)

    def reliability() -> str:
        found = client.get_subscriptions_info_by_topic("/image")
        return ",".join(endpoint.qos_profile.reliability.name for endpoint in found)

    client.poll(lambda: reliability() == "BEST_EFFORT", "compatible with all while there is none")
    reliable = client.create_publisher(Image, "image", 1)
    client.poll(lambda: reliability() == "RELIABLE", "a reliable subscription")
    best_effort = client.create_publisher(
        Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    client.poll(best_effort.get_subscription_count, "a subscription to the best-effort publisher")
    client.poll(lambda: reliability() == "BEST_EFFORT", "one subscription, compatible with both")
    stamps = iter(range(10**12, 10**13, 10**8))
    for publisher in (reliable, best_effort):
        tracks.clear()
        client.publish_until(
            lambda publisher=publisher: publisher.publish(
                image_message(red_box_image(10, 10, 30, 30), next(stamps))
            ),
            lambda: tracks,
            "a track",
        )
    client.destroy_publisher(best_effort)
    client.poll(lambda: reliability() == "RELIABLE", "reliable again")
    line = client.wait_log("subscribed to /image with reliability best_effort")
    assert "/client offers best_effort, /client offers reliable" in line
    assert not any("incompatible QoS on" in line for line in client.log_lines())
    node.trigger_deactivate()
    client.poll(lambda: reliability() == "", "no subscription of an inactive node")


def test_large_images_of_another_process_all_arrive(
    client: ClientNode, start_node, domain: int
) -> None:
    """A raw VGA image is over half a megabyte: best effort loses most of them between processes."""
    node = start_node()
    (camera,) = node._cameras
    script = (
        "import array, rclpy, time\n"
        "from sensor_msgs.msg import Image\n"
        "rclpy.init(); node = rclpy.create_node('camera')\n"
        "publisher = node.create_publisher(Image, 'image', 5)\n"
        "image = Image(height=480, width=640, encoding='rgb8', step=1920)\n"
        "image.data = array.array('B', bytes(480 * 1920))\n"
        "while not publisher.get_subscription_count(): time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        "for i in range(20):\n"
        "    image.header.stamp.sec, image.header.stamp.nanosec = 1000 + i // 10, i % 10 * 10**8\n"
        "    publisher.publish(image); time.sleep(0.03)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        try:
            client.poll(lambda: camera.intake.counts.received == 20, "all 20 images")
            assert camera.reliability == "reliable"
        finally:
            process.communicate(b"\n", timeout=30)


def test_warnings_about_missing_images_are_throttled(client: ClientNode, start_node) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(cameras=["front=/front/image_raw"], transport="compressed", log_period=3600.0)
    client.wait_log("waiting for images on /front/image_raw/compressed (0 publishers)")
    client.create_publisher(CompressedImage, "/front/image_raw/compressed", 1)

    def warned() -> bool:
        last = diagnostics[-1].status if diagnostics else []
        return any(
            s.name == "/grounding: camera front"
            and s.level == DiagnosticStatus.WARN
            and "(1 publisher" in s.message
            for s in last
        )

    client.wait(warned, "the warning in the diagnostics")
    assert sum("waiting for images" in line for line in client.log_lines()) == 1


def test_remapping_the_base_topic_moves_the_compressed_topic(
    client: ClientNode, start_node, domain: int
) -> None:
    from rclpy.context import Context

    from llava_st_ros.ros.node import GroundingNode
    from support.red_box_backend import load_red_box

    context = Context()
    context.init(domain_id=domain)
    node = GroundingNode(
        load=load_red_box,
        context=context,
        cli_args=["--ros-args", "-r", "image:=/left/color", "-p", "transport:=compressed"],
    )
    try:
        node.trigger_configure()
        node.trigger_activate()
        assert node.image_topics == ("/left/color/compressed",)
    finally:
        node.destroy_node()
        context.shutdown()


def test_latency_is_measured_on_simulated_time_from_the_stamp(
    client: ClientNode, start_node
) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(use_sim_time=True, queries=["the red box"], default_period=0.05)
    clock = client.create_publisher(Clock, "/clock", 1)
    camera, count = client.camera("image"), iter(range(10**9))

    def publish_image() -> None:
        stamp = 100 * SECOND + next(count) * SECOND // 100
        # Simulated time is 40 s ahead of each stamp, which no real clock would measure.
        clock.publish(Clock(clock=stamp_to_msg(stamp + 40 * SECOND)))
        camera.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

    def latency() -> float | None:
        values = [v for d in diagnostics for s in d.status for v in s.values]
        means = [v.value.split()[1] for v in values if "latency" in v.key and v.value != "none"]
        return float(means[-1]) if len(means) > 1 else None

    assert client.publish_until(publish_image, latency, "a latency") == pytest.approx(40.0, abs=2.0)


def test_event_of_a_replaced_subscription_is_not_a_warning(client: ClientNode, start_node) -> None:
    (camera,) = start_node()._cameras
    client.create_publisher(Image, "image", QoSProfile(depth=1))
    client.poll(lambda: camera.reliability == "reliable", "a second subscription")
    camera._subscription._on_incompatible("of the first subscription", 1)
    camera._subscription._on_incompatible("of the second subscription", 2)
    client.wait_log("of the second subscription")
    assert "of the first subscription" not in client.log_lines()


def test_the_time_between_two_publishers_is_not_a_loss(client: ClientNode, start_node) -> None:
    (camera,) = start_node()._cameras
    image = red_box_image(10, 10, 30, 30)

    def run_publisher(start: int) -> None:
        publisher, stamps = client.camera("image"), iter(range(start, 10**13, SECOND // 10))
        client.poll(lambda: camera.publisher_count == 1, "one publisher")
        camera.refresh()
        received = camera.intake.counts.received
        client.publish_until(
            lambda: publisher.publish(image_message(image, next(stamps))),
            lambda: camera.intake.counts.received >= received + 10,
            "images",
        )
        client.destroy_publisher(publisher)

    run_publisher(10**12)
    run_publisher(10**12 + 4 * SECOND)
    assert camera.intake.arrivals.rate.share > 0.9


def test_no_image_is_lost_or_repeated_while_the_reliability_changes(
    client: ClientNode, start_node
) -> None:
    """A best-effort publisher joins and leaves while a reliable one sends."""
    (camera,) = start_node()._cameras
    subscription = camera._subscription
    received: list[int] = []
    camera._on_frame = lambda frame: received.append(frame.stamp)
    publisher = client.camera("image", profile=QoSProfile(depth=100))
    client.poll(lambda: camera.reliability == "reliable", "a reliable subscription")
    client.poll(lambda: publisher.get_subscription_count() > 0, "its discovery")
    image, stamps, sent = red_box_image(1, 1, 2, 2), iter(range(10**12, 10**13, SECOND // 10)), []

    def publish_image() -> None:
        sent.append(next(stamps))
        publisher.publish(image_message(image, sent[-1]))

    client.publish_until(publish_image, lambda: received, "an image")
    first = sent.index(received[0])  # the subscription was matched from here on
    for reliability in ("best_effort", "reliable"):
        if reliability == "best_effort":
            profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            other = client.create_publisher(Image, "image", profile)
        else:
            client.destroy_publisher(other)
        client.publish_until(
            publish_image, lambda wanted=reliability: camera.reliability == wanted, reliability
        )
        client.publish_until(
            publish_image,
            lambda: not (subscription._retired or subscription._expired),
            "the end of the old subscription",
        )
    client.poll(lambda: set(received) == set(sent[first:]), "every image")
    assert len(received) == len(set(received))


def test_an_image_that_a_freed_subscription_had_is_not_repeated_by_a_late_one(
    start_node, monkeypatch
) -> None:
    """Until the refresh after the one that freed it: a bag that is played again has its stamps."""
    (camera,) = start_node()._cameras
    subscription = camera._subscription
    monkeypatch.setattr(subscription, "_free", lambda subscriptions: None)
    message = image_message(red_box_image(1, 1, 2, 2), 10**12)
    old, new = 101, 102  # numbers of subscriptions
    assert subscription._accepts(old, message)
    subscription._expired = {old: None}
    subscription.refresh()  # frees it
    assert not subscription._accepts(new, message)
    subscription.refresh()
    assert subscription._accepts(new, message)


def test_lost_messages_are_counted_in_the_diagnostics(client: ClientNode, start_node) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    (camera,) = start_node()._cameras
    handlers = camera._subscription._subscription.event_handlers
    report = next(h.callback for h in handlers if "on_loss" in h.callback.__code__.co_freevars)
    for count in (3, 2):
        report(SimpleNamespace(total_count_change=count))

    def values() -> dict[str, str]:
        statuses = [s for d in list(diagnostics) for s in d.status if s.name.endswith("camera")]
        return {v.key: v.value for v in statuses[-1].values} if statuses else {}

    client.wait(lambda: values().get("lost by the middleware") == "5", "the count")


def test_images_of_a_bag_that_is_played_again_arrive(client: ClientNode, start_node) -> None:
    """Its stamps are the same, and the subscription is another one."""
    (camera,) = start_node()._cameras
    image = red_box_image(1, 1, 2, 2)
    for number in (1, 2):
        publisher = client.camera("image", profile=QoSProfile(depth=100))
        client.poll(lambda: camera.reliability == "reliable", "a reliable subscription")
        client.poll(publisher.get_subscription_count, "its discovery")
        received = camera.intake.counts.received
        for index in range(4):  # less than the depth
            publisher.publish(image_message(image, 10**12 + index * SECOND // 10))
        client.poll(
            lambda received=received: camera.intake.counts.received == received + 4,
            f"every image of run {number}",
        )
        client.destroy_publisher(publisher)
        client.poll(lambda: camera.reliability == "best_effort", "no publisher")


@pytest.mark.parametrize("event", ["MESSAGE_LOST", "MATCHED", "INCOMPATIBLE_QOS"])
def test_events_that_the_middleware_does_not_report_do_not_prevent_a_subscription(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    from llava_st_ros.ros import qos

    make_handler = qos.rclpy_events.EventHandler

    def make_if_supported(**values: Any) -> Any:
        if values["event_type"].name.endswith(event):
            raise qos.rclpy_events.UnsupportedEventTypeError("not supported by this middleware")
        return make_handler(**values)

    monkeypatch.setattr(qos.rclpy_events, "EventHandler", make_if_supported)
    node = start_node()
    (camera,) = node._cameras
    names = {h.event_type.name for h in camera._subscription._subscription.event_handlers}
    kept = {"MESSAGE_LOST", "MATCHED", "INCOMPATIBLE_QOS"} - {event}
    assert all(any(name.endswith(other) for name in names) for other in kept)
    # Where matches are not reported, subscribers are counted.
    counted = node._result_publishers._joins._publishers
    assert len(counted) == (2 if event == "MATCHED" else 0)
    publisher = client.camera("image")
    message = image_message(red_box_image(1, 1, 2, 2), 10**12)
    client.publish_until(
        lambda: publisher.publish(message), lambda: camera.intake.counts.received, "an image"
    )
