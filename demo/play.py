"""Player process: publishes a bag's images with their stamps, at the rate they were recorded."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage

from demo.processes import send
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.records import NANOSECONDS
from llava_st_ros.ros.conversions import header

MATCH_TIMEOUT_S = 60.0


def to_message(image: ImageMessage) -> CompressedImage:
    """Convert a bag's message to a ROS message."""
    message = CompressedImage(format=image.message.format, data=image.message.data.tobytes())
    message.header = header(image.stamp, image.frame_id)
    return message


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("topic", help="topic to publish on")
    arguments = parser.parse_args()
    bag = Bag(arguments.bag)
    images = [(image.stamp, to_message(image)) for image in bag.images(bag.image_topic())]
    rclpy.init()
    node = Node("bag_player")
    publisher = node.create_publisher(CompressedImage, arguments.topic, qos_profile_sensor_data)
    deadline = time.monotonic() + MATCH_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline:
            print(
                f"{arguments.topic} has no subscriber after {MATCH_TIMEOUT_S:.0f} s",
                file=sys.stderr,
            )
            return 1
        rclpy.spin_once(node, timeout_sec=0.05)
    send(kind="matched", frames=len(images))
    first, start = images[0][0], time.monotonic_ns()
    for stamp, message in images:
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
