"""The cameras of a running node: their health, and their images while somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.ros import qos
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.image_subscription import ImageSubscription
from llava_st_ros.ros.images import to_jpeg

COMPRESSED = "sensor_msgs/msg/CompressedImage"
IMAGE_KINDS = {"sensor_msgs/msg/Image": Image, COMPRESSED: CompressedImage}
LEVELS = {
    DiagnosticStatus.OK: "ok",
    DiagnosticStatus.WARN: "warning",
    DiagnosticStatus.ERROR: "error",
    DiagnosticStatus.STALE: "stale",
}
# Called with a camera's name, an image's stamp (ns), and a function that returns it as a JPEG or
# raises FrameError.
OnImage = Callable[[str, int, Callable[[], bytes]], object]


class WatchedCameras:
    """Finds the cameras of a node in its diagnostics, once per second.

    Args:
        node: The node that subscribes.
        target: The fully qualified name of the node with the cameras.
        on_health: Called with the health of the node and its cameras.
        on_image: Called with each image while the cameras are watched.
    """

    def __init__(
        self,
        node: Node,
        target: str,
        on_health: Callable[[dict[str, Any]], object],
        on_image: OnImage,
    ) -> None:
        self._node, self._target = node, target
        self._on_health, self._on_image = on_health, on_image
        self._topics: dict[str, str] = {}  # by camera
        self._subscriptions: dict[str, ImageSubscription] = {}  # by camera
        self._diagnostics = node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, 50
        )

    def update(self, is_watched: bool) -> None:
        """Subscribe to the images, or to none. Call it about once per second."""
        wanted = self._topics if is_watched else {}
        for camera, subscription in list(self._subscriptions.items()):
            if wanted.get(camera) != subscription.topic:
                del self._subscriptions[camera]
                subscription.destroy()
            else:
                subscription.refresh()
        missing = {camera: t for camera, t in wanted.items() if camera not in self._subscriptions}
        kinds = self._kinds() if missing else {}
        for camera, topic in missing.items():
            if topic in kinds:
                self._subscriptions[camera] = ImageSubscription(
                    self._node, kinds[topic], topic, qos.AUTO, partial(self._receive, camera)
                )

    def _kinds(self) -> dict[str, type]:
        """The types of the image topics that the node has subscribed to."""
        namespace, _, name = self._target.rpartition("/")
        try:
            found = self._node.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except RuntimeError:  # it has ended
            return {}
        return {
            topic: IMAGE_KINDS[kind]
            for topic, kinds in found
            for kind in kinds
            if kind in IMAGE_KINDS
        }

    def _receive(self, camera: str, message: Any) -> None:
        self._on_image(camera, stamp_from_msg(message.header.stamp), partial(to_jpeg, message))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._target}: "
        statuses = {
            status.name.removeprefix(prefix): status
            for status in message.status
            if status.name.startswith(prefix)
        }
        model = statuses.pop("model", None)
        if model is None:
            return
        cameras = {
            name.removeprefix("camera "): _values(status)
            for name, status in statuses.items()
            if name.startswith("camera ")
        }
        if cameras:  # an inactive node has none; its cameras may go on
            self._topics = {name: values["topic"] for name, values in cameras.items()}
        self._on_health({"cameras": cameras, **_values(model)})


def _values(status: DiagnosticStatus) -> dict[str, str]:
    values = {item.key: item.value for item in status.values}
    return {
        "level": LEVELS.get(status.level, "unknown"),
        "message": status.message,
        "topic": values.get("topic", ""),
    }
