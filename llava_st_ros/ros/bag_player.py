"""Player process: publishes a bag's images with their stamps, at the rate of the stamps.

python -m llava_st_ros.ros.bag_player BAG TOPIC [--bag-topic NAME]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.media.bags.compression import decompress_message
from llava_st_ros.records import NANOSECONDS
from llava_st_ros.ros.child_processes import send
from llava_st_ros.ros.conversions import stamp_to_msg

MATCH_TIMEOUT_S = 60.0
RELIABLE_TIMEOUT_S = 3.0  # the node may subscribe again, reliably, once it knows this publisher
QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


def to_message(image: ImageMessage) -> Any:
    """Convert a bag's message to a ROS message with the stamp that the bag is read with."""
    kind = CompressedImage if image.type.endswith("CompressedImage") else Image
    message = deserialize_message(decompress_message(image.data), kind)
    message.header.stamp = stamp_to_msg(image.stamp)
    return message


def wait_for_subscription(node: Node, topic: str) -> bool:
    """Wait until the topic is subscribed to, if possible by reliable subscriptions only."""
    start = time.monotonic()
    while (waited := time.monotonic() - start) < MATCH_TIMEOUT_S:
        found = node.get_subscriptions_info_by_topic(topic)
        kinds = {endpoint.qos_profile.reliability for endpoint in found}
        if found and (kinds == {ReliabilityPolicy.RELIABLE} or waited > RELIABLE_TIMEOUT_S):
            return True
        rclpy.spin_once(node, timeout_sec=0.05)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("topic", help="topic to publish on")
    parser.add_argument("--bag-topic", help="topic of the bag (default: its only image topic)")
    arguments = parser.parse_args()
    bag = Bag(arguments.bag)
    source = bag.image_topic(arguments.bag_topic)
    rclpy.init()
    node = Node("bag_player")
    kind = CompressedImage if source.type.endswith("CompressedImage") else Image
    publisher = node.create_publisher(kind, arguments.topic, QOS)
    if not wait_for_subscription(node, publisher.topic_name):
        problem = f"{arguments.topic} has no subscriber after {MATCH_TIMEOUT_S:.0f} s"
        print(problem, file=sys.stderr)
        return 1
    send(kind="matched")
    first = start = 0
    for image in bag.images(source):
        try:
            stamp, message = image.stamp, to_message(image)
        except FrameError:
            continue  # has no stamp or is damaged
        if not start:
            first, start = stamp, time.monotonic_ns()
        wait = start + (stamp - first) - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / NANOSECONDS)
        sent = time.time_ns()
        publisher.publish(message)
        send(kind="frame", stamp=stamp, sent=sent)
    send(kind="done")
    # Run until terminated: messages that a late reader has not received are lost at the end.
    rclpy.spin(node)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        sys.exit(0)
