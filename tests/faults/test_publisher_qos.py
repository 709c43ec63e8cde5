"""Cameras that publish with another QoS."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from llava_st_ros import msg
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros


def test_an_incompatible_publisher_is_logged_with_both_policies(
    client: ClientNode, start_node
) -> None:
    """Injected: a best-effort publisher, while the node is set to reliable.
    Published: nothing of it; tracks as soon as a reliable publisher sends.
    Logged: WARN with both policies and the publisher's node.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    (camera,) = start_node(image_reliability="reliable", queries=["the red box"])._cameras
    offered = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    stamps = iter(range(10**12, 10**13, 10**8))
    publishers = [client.create_publisher(Image, "image", offered)]
    line = client.wait_log("incompatible QoS on /image")
    assert "RELIABILITY: this node requests reliable, offered is best_effort by /client" in line

    def publish_image() -> None:
        publishers[-1].publish(image_message(red_box_image(10, 10, 30, 30), next(stamps)))

    for _ in range(5):
        publish_image()
    assert camera.intake.counts.received == 0
    publishers.append(client.create_publisher(Image, "image", 10))
    client.publish_until(publish_image, lambda: any(a.tracks for a in list(tracks)), "a track")


def test_best_effort_and_reliable_cameras_are_compatible_by_default(
    client: ClientNode, start_node
) -> None:
    """Injected: publishers of any reliability and durability, with the default parameters.
    Published: tracks of all of them.
    Logged: nothing about incompatible QoS.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(cameras=["a", "b"], queries=["the red box"])
    stamps = iter(range(10**12, 10**13, 10**8))
    profiles = [
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    ]
    publishers = [client.create_publisher(Image, n, p) for n, p in zip("ab", profiles)]

    def publish_image() -> None:
        message = image_message(red_box_image(10, 10, 30, 30), next(stamps))
        for publisher in publishers:
            publisher.publish(message)

    client.publish_until(
        publish_image, lambda: {a.camera for a in tracks} == {"a", "b"}, "both cameras"
    )
    assert not any("incompatible" in line for line in client.log_lines())
