"""The image subscription of one camera."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.records import Frame
from llava_st_ros.ros import qos
from llava_st_ros.ros.intake import FrameIntake
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import CameraSource, NodeParameters


class CameraSubscription:
    """Decodes each image in the subscription's callback and passes it on.

    Subscribed from construction to ``destroy``.

    Args:
        node: The node that subscribes.
        source: The camera.
        parameters: The node's parameters.
        on_frame: Called with each frame.
        throttle: Limits the warnings about dropped frames and missing images.

    Attributes:
        topic: The resolved image topic.
        last_problem: Reason why the last bad message was dropped; empty if there was none.
    """

    def __init__(
        self,
        node: Node,
        source: CameraSource,
        parameters: NodeParameters,
        on_frame: Callable[[Frame], None],
        throttle: LogThrottle,
    ) -> None:
        self.source = source
        self.intake = FrameIntake(source.name, parameters.max_frame_rate)
        self.last_problem = ""
        self._node, self._on_frame, self._throttle = node, on_frame, throttle
        self._logger = node.get_logger()
        self._subscribed_at = time.monotonic()
        self._last_arrival: float | None = None
        self.topic = node.resolve_topic_name(source.topic) + source.suffix
        profile = qos.image_profile(parameters.image_reliability)
        self._subscription = node.create_subscription(
            CompressedImage if source.compressed else Image,
            self.topic,
            self._receive,
            profile,
            # One group per camera: its images in order, in parallel with the other cameras.
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=qos.subscription_events(node, self.topic, profile, self._warn_qos),
        )

    @property
    def publisher_count(self) -> int:
        """The number of publishers of the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def silence(self) -> float:
        """Seconds since the last message, or since the subscription was made."""
        since = self._subscribed_at if self._last_arrival is None else self._last_arrival
        return time.monotonic() - since

    def warn_if_silent(self, seconds: float) -> None:
        """Log a throttled warning if no message has arrived for ``seconds``."""
        if self.silence < seconds:
            return
        count = self.publisher_count
        self._throttle.warning(
            f"silence {self.topic}",
            f"waiting for images on {self.topic} ({count} publisher{'' if count == 1 else 's'})",
        )

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _receive(self, message: Image | CompressedImage) -> None:
        self._last_arrival = time.monotonic()
        try:
            frame = self.intake.read(message)
        except FrameError as error:
            self.last_problem = str(error)
            self._throttle.warning(
                f"bad image {self.topic}",
                f"dropped a frame of {self.topic} ({self.intake.counts.dropped} so far): {error}",
            )
            return
        if frame is not None:
            self._on_frame(frame)

    def _warn_qos(self, line: str) -> None:
        # Not throttled: the event occurs once per publisher.
        self._logger.warning(line)
