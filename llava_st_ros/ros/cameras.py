"""One camera's subscription: receives, decodes, hands frames on, and says when nothing comes."""

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
from llava_st_ros.ros.parameters import CameraSource, NodeParameters
from llava_st_ros.ros.throttle import Throttle


class CameraSubscription:
    """Subscribed from construction to ``destroy``; nothing but decoding happens in its callback."""

    def __init__(
        self,
        node: Node,
        source: CameraSource,
        parameters: NodeParameters,
        on_frame: Callable[[Frame], None],
        throttle: Throttle,
    ) -> None:
        self.source = source
        self.intake = FrameIntake(source.name, parameters.max_frame_rate)
        self.problem = ""  # the last bad message's
        self._node, self._on_frame, self._throttle = node, on_frame, throttle
        self._logger = node.get_logger()
        self._since = time.monotonic()
        self._arrival: float | None = None
        self.topic = node.resolve_topic_name(source.topic) + source.suffix
        profile = qos.images(parameters.image_reliability)
        self._subscription = node.create_subscription(
            CompressedImage if source.compressed else Image,
            self.topic,
            self._receive,
            profile,
            # One at a time and in order for a camera, while other cameras go on beside it.
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=qos.subscription_events(node, self.topic, profile, self._warn_qos),
        )

    @property
    def publishers(self) -> int:
        """How many publishers the topic has."""
        return self._node.count_publishers(self.topic)

    @property
    def silence(self) -> float:
        """Seconds since the last message, or since the subscription began."""
        since = self._since if self._arrival is None else self._arrival
        return time.monotonic() - since

    def complain_of_silence(self, seconds: float) -> None:
        """Log, at a bounded rate, that nothing has come for ``seconds``."""
        if self.silence < seconds:
            return
        count = self.publishers
        self._throttle(
            self._logger.warning,
            f"silence {self.topic}",
            f"waiting for images on {self.topic} ({count} publisher{'' if count == 1 else 's'})",
        )

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _receive(self, message: Image | CompressedImage) -> None:
        self._arrival = time.monotonic()
        try:
            frame = self.intake.read(message)
        except FrameError as error:
            self.problem = str(error)
            self._throttle(
                self._logger.warning,
                f"bad image {self.topic}",
                f"dropped a frame of {self.topic} ({self.intake.counts.dropped} so far): {error}",
            )
            return
        if frame is not None:
            self._on_frame(frame)

    def _warn_qos(self, line: str) -> None:
        # Not throttled: it comes once for each publisher, and it is never noise.
        self._logger.warning(line)
