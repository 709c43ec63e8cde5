"""A camera that shows a red box which does not move."""

from __future__ import annotations

from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message

PERIOD = 100_000_000  # nanoseconds between two stamps


class RedBoxCamera:
    """Publishes the same image, 0.1 s later each time.

    Args:
        client: The node that publishes. It must be waiting for a subscription.
        topic: The image topic.
    """

    def __init__(self, client: ClientNode, topic: str = "image") -> None:
        self._publisher = client.camera(topic)
        self._stamp = 10**12

    def publish_image(self) -> None:
        self._stamp += PERIOD
        self._publisher.publish(image_message(red_box_image(10, 10, 30, 30), self._stamp))
