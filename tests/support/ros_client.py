"""A node that publishes images, collects messages and calls services, with bounded waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import Log
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from llava_st_ros import action, msg
from llava_st_ros.ros.conversions import header
from llava_st_ros.ros.spinning import Spinner

TIMEOUT = 30.0  # seconds; far longer than anything here takes


class ClientNode(Node):
    """The node under test's counterpart. ``wait`` re-evaluates its condition on each message."""

    def __init__(self, context: Context) -> None:
        super().__init__("client", context=context)
        self._arrived = threading.Condition()
        self.logs: list[Log] = []
        profile = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Log, "/rosout", self._append_to(self.logs), profile)

    def collect(self, kind: type, topic: str, profile: Any = 100) -> list[Any]:
        """Subscribe to ``topic``; return a list to which its messages are appended."""
        messages: list[Any] = []
        self.create_subscription(kind, topic, self._append_to(messages), profile)
        return messages

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Wait until the condition is true and return its value; fail after TIMEOUT."""
        with self._arrived:
            value = self._arrived.wait_for(condition, TIMEOUT)
        assert value, f"waited {TIMEOUT} s for {what}; logs: {self.log_lines()[-8:]}"
        return value

    def poll(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """As ``wait``, for conditions that change without a message (discovery, threads)."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {what}"
            with self._arrived:
                self._arrived.wait(0.01)
        return value

    def log_lines(self) -> list[str]:
        return [log.msg for log in self.logs]

    def wait_log(self, *parts: str) -> str:
        """Wait for a log line that contains every part, and return the first."""
        found: list[str] = []

        def is_logged() -> bool:
            found[:] = [line for line in self.log_lines() if all(part in line for part in parts)]
            return bool(found)

        self.wait(is_logged, f"a log line with {parts}")
        return found[0]

    def publish_until(
        self, publish: Callable[[], None], condition: Callable[[], Any], what: str
    ) -> Any:
        """Call ``publish`` repeatedly, as a camera does, until the condition is true."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}; logs: {self.log_lines()[-8:]}"
            publish()
            with self._arrived:
                self._arrived.wait(0.02)
        return value

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        service = self.create_client(kind, name)
        assert service.wait_for_service(TIMEOUT), name
        future = service.call_async(request)
        response = self.poll(lambda: future.done() and future.result(), f"a response from {name}")
        self.destroy_client(service)
        return response

    def action(self, kind: type, name: str) -> ActionClient:
        server = ActionClient(self, kind, name)
        assert server.wait_for_server(TIMEOUT), name
        return server

    def camera(self, topic: str, *, compressed: bool = False, profile: Any = None) -> Any:
        """Create an image publisher; without a ``profile``, wait until it is subscribed to."""
        publisher = self.create_publisher(
            CompressedImage if compressed else Image, topic, profile or qos_profile_sensor_data
        )
        if profile is None:
            self.poll(publisher.get_subscription_count, f"a subscription to {topic}")
        return publisher

    def camera_info(self, topic: str) -> Any:
        """Create a publisher of calibrations, and wait until it is subscribed to."""
        publisher = self.create_publisher(CameraInfo, topic, qos_profile_sensor_data)
        self.poll(publisher.get_subscription_count, f"a subscription to {topic}")
        return publisher

    def _append_to(self, messages: list[Any]) -> Callable[[Any], None]:
        def append(message: Any) -> None:
            with self._arrived:
                messages.append(message)
                self._arrived.notify_all()

        return append


class Goal:
    """An accepted goal."""

    def __init__(self, client: ClientNode, server: Any, camera: str = "", **query: Any) -> None:
        self._client = client
        self.feedback: list[Any] = []
        goal = action.Ground.Goal(query=msg.Query(**query), camera=camera)
        sent = server.send_goal_async(goal, feedback_callback=self.feedback.append)
        self.handle = client.poll(lambda: sent.done() and sent.result(), "the goal's acceptance")
        self._result = self.handle.get_result_async()

    def result(self) -> tuple[int, action.Ground.Result]:
        response = self._client.poll(
            lambda: self._result.done() and self._result.result(), "the goal's result"
        )
        return response.status, response.result

    def is_done(self, within: float) -> bool:
        """Wait up to ``within`` seconds for the result."""
        done = threading.Event()
        self._result.add_done_callback(lambda _: done.set())
        return done.wait(within)

    def cancel(self) -> None:
        future = self.handle.cancel_goal_async()
        self._client.poll(lambda: future.done() and future.result(), "the cancel response")


@contextmanager
def spinning_client(context: Context) -> Iterator[ClientNode]:
    """A node with an executor of its own."""
    node = ClientNode(context)
    spinner = Spinner(context, 2)
    spinner.add(node)
    yield node
    spinner.close()
    node.destroy_node()


def image_message(
    image: np.ndarray, stamp: int, frame_id: str = "optical", encoding: str = "rgb8"
) -> Image:
    """Convert RGB uint8 [H, W, 3] to an Image in one of the supported encodings."""
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


def compressed_message(
    image: np.ndarray, stamp: int, frame_id: str = "optical", suffix: str = ".jpg"
) -> CompressedImage:
    """Convert RGB uint8 [H, W, 3] to a CompressedImage, JPEG or PNG."""
    _, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    message = CompressedImage(header=header(stamp, frame_id), format=suffix[1:])
    message.data.frombytes(data.tobytes())
    return message
