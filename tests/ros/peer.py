"""The other side of the topics: a node that publishes, collects and calls, with bounded waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import Log
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.ros.conversions import header

PATIENCE = 30.0  # seconds; far beyond what anything here takes


class Peer(Node):
    """Waits on conditions: ``wait`` looks again whenever anything arrived."""

    def __init__(self, context: Context) -> None:
        super().__init__("peer", context=context)
        self._arrived = threading.Condition()
        self.logs: list[Log] = []
        kept = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Log, "/rosout", self._into(self.logs), kept)

    def collect(self, kind: type, topic: str, profile: Any = 100) -> list[Any]:
        """A list that fills with what comes on ``topic``."""
        messages: list[Any] = []
        self.create_subscription(kind, topic, self._into(messages), profile)
        return messages

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """The condition's value once it is true; the test fails where it never is."""
        with self._arrived:
            value = self._arrived.wait_for(condition, PATIENCE)
        assert value, f"waited {PATIENCE} s for {what}; logs: {self.log_lines()[-8:]}"
        return value

    def poll(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """As ``wait``, for what no message tells of (discovery, threads)."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
            with self._arrived:
                self._arrived.wait(0.01)
        return value

    def log_lines(self) -> list[str]:
        return [log.msg for log in self.logs]

    def wait_log(self, *parts: str) -> str:
        """The first logged line that holds every part."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.log_lines() if all(part in line for part in parts)]
            return bool(found)

        self.wait(look, f"a log line with {parts}")
        return found[0]

    def publish_until(
        self, publish: Callable[[], None], condition: Callable[[], Any], what: str
    ) -> Any:
        """Publish again and again, as a camera does, until the condition is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}; logs: {self.log_lines()[-8:]}"
            publish()
            with self._arrived:
                self._arrived.wait(0.02)
        return value

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.create_client(kind, name)
        assert client.wait_for_service(PATIENCE), name
        future = client.call_async(request)
        response = self.poll(lambda: future.done() and future.result(), f"an answer of {name}")
        self.destroy_client(client)
        return response

    def action(self, kind: type, name: str) -> ActionClient:
        client = ActionClient(self, kind, name)
        assert client.wait_for_server(PATIENCE), name
        return client

    def camera(self, topic: str, *, compressed: bool = False, profile: Any = None) -> Any:
        """A publisher of images that some subscription has found."""
        publisher = self.create_publisher(
            CompressedImage if compressed else Image, topic, profile or qos_profile_sensor_data
        )
        if profile is None:
            self.poll(publisher.get_subscription_count, f"a subscription to {topic}")
        return publisher

    def _into(self, messages: list[Any]) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            with self._arrived:
                messages.append(message)
                self._arrived.notify_all()

        return take


def raw(image: np.ndarray, stamp: int, frame_id: str = "optical", encoding: str = "rgb8") -> Image:
    """RGB uint8 [H, W, 3] -> Image in one of the encodings that the node takes."""
    codes = {
        "bgr8": cv2.COLOR_RGB2BGR,
        "rgba8": cv2.COLOR_RGB2RGBA,
        "bgra8": cv2.COLOR_RGB2BGRA,
        "mono8": cv2.COLOR_RGB2GRAY,
    }
    pixels = cv2.cvtColor(image, codes[encoding]) if encoding in codes else image
    message = Image(header=header(stamp, frame_id), encoding=encoding)
    message.height, message.width = pixels.shape[:2]
    message.step = pixels.nbytes // message.height
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def compressed(
    image: np.ndarray, stamp: int, frame_id: str = "optical", suffix: str = ".jpg"
) -> CompressedImage:
    """RGB uint8 [H, W, 3] -> CompressedImage, JPEG or PNG."""
    _, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    message = CompressedImage(header=header(stamp, frame_id), format=suffix[1:])
    message.data.frombytes(data.tobytes())
    return message
