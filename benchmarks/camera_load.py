"""Camera process of ``benchmarks.node``: publishes a bag's frames as raw images of several cameras.

python -m benchmarks.camera_load BAG --cameras 4 --rate 30 --size 640x480

The frames are played forward and back without an end, on /camera0, /camera1, ... in turn, with the
time of publication as their stamp. Messages are serialized once and only their stamps
are written again, so that the process leaves most of the CPU to the node. Each second it sends the
number of images published so far and how late the last one was.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from llava_st_ros.media.sources import BagSource
from llava_st_ros.ros.child_processes import send

STAMP = struct.Struct("<iI")  # of the header, which follows the four bytes of CDR's encapsulation
STAMP_OFFSET = 4


def serialized(frame: np.ndarray, frame_id: str, size: tuple[int, int]) -> bytearray:
    """Return an Image message (CDR, little endian) of an RGB frame, resized to (width, height)."""
    pixels = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    message = Image(width=size[0], height=size[1], step=3 * size[0], encoding="rgb8")
    message.header.frame_id = frame_id
    message.data = pixels.tobytes()
    return bytearray(serialize_message(message))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--rate", type=float, default=30.0, help="Hz of each camera")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--best-effort", action="store_true", help="default: reliable")
    options = parser.parse_args()

    width, height = map(int, options.size.split("x"))
    rclpy.init()
    node = Node("camera_load")
    topics = [f"/camera{i}" for i in range(options.cameras)]
    kinds = ReliabilityPolicy
    reliability = kinds.BEST_EFFORT if options.best_effort else kinds.RELIABLE
    qos = QoSProfile(depth=5, reliability=reliability)
    publishers = [node.create_publisher(Image, topic, qos) for topic in topics]
    frames = [frame.image for frame in BagSource(options.bag)]
    messages = [serialized(frame, "camera", (width, height)) for frame in frames]
    play = itertools.cycle([*messages, *messages[-2:0:-1]])

    interval = 1.0 / (options.rate * options.cameras)
    due = reported = time.monotonic()
    for count, publisher in enumerate(itertools.cycle(publishers), start=1):
        if count % options.cameras == 1 or options.cameras == 1:
            message = next(play)
        late = time.monotonic() - due
        if late < 0:
            time.sleep(-late)
        now = time.time_ns()
        STAMP.pack_into(message, STAMP_OFFSET, now // 10**9, now % 10**9)
        publisher.publish(bytes(message))
        due += interval
        if time.monotonic() - reported >= 1.0:
            reported = time.monotonic()
            send(kind="published", count=count, late=max(0.0, late))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        sys.exit(0)
