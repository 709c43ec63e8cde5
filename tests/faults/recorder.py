"""Records a topic of images as MCAP until it is ended: ``recorder.py FILE TOPIC``.

In place of ``ros2 bag record``, which the ROS wheels do not have: it writes chunks as they fill.
"""

from __future__ import annotations

import sys
import time

import rclpy
from mcap.writer import Writer
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


def main(path: str, topic: str) -> None:
    with open(path, "wb", buffering=0) as file:
        writer = Writer(file, chunk_size=1_000_000)  # three images of the red-box camera
        writer.start(profile="ros2")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channel = writer.register_channel(topic, "cdr", schema)

        def record(message: bytes) -> None:
            now = time.time_ns()
            writer.add_message(channel, now, message, now)

        rclpy.init()
        node = Node("recorder")
        node.create_subscription(Image, topic, record, qos_profile_sensor_data, raw=True)
        rclpy.spin(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
