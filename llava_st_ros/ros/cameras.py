"""The image subscription of one camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.records import Frame
from llava_st_ros.ros import qos
from llava_st_ros.ros.arrival_rate import ArrivalRate
from llava_st_ros.ros.diagnostics import stamp_reasons
from llava_st_ros.ros.intake import FrameIntake
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import CameraSource, NodeParameters
from llava_st_ros.streaming.frame_buffer import StreamReport


class CameraSubscription:
    """Decodes each image in the subscription's callback and passes it on.

    Subscribed from construction to ``destroy``. With ``image_reliability: auto`` the subscription
    is reliable while every publisher of the topic is, else best effort, which is compatible with
    both; it is replaced when that changes.

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
        self.intake = FrameIntake(
            source.name, parameters.max_frame_rate, round(parameters.max_megapixels * 1e6)
        )
        self.last_problem = ""
        self._node, self._on_frame, self._throttle = node, on_frame, throttle
        self._logger = node.get_logger()
        self._subscribed_at = time.monotonic()
        self._last_arrival: float | None = None
        self.topic = node.resolve_topic_name(source.topic) + source.suffix
        self._requested = parameters.image_reliability
        self._subscription_lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._number = 0  # of the subscription
        self._known_publishers: set[bytes] = set()  # their GIDs
        self._retired: list[Subscription] = []  # replaced, to be destroyed
        # One group per camera: its images in order, in parallel with the other cameras.
        self._group = MutuallyExclusiveCallbackGroup()
        with self._subscription_lock:
            self._subscribe(self._wanted_reliability())

    @property
    def publisher_count(self) -> int:
        """The number of publishers of the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def reliability(self) -> str:
        """The reliability of the subscription; empty once it is destroyed."""
        subscription = self._subscription
        return "" if subscription is None else subscription.qos_profile.reliability.name.lower()

    @property
    def arrivals(self) -> ArrivalRate | None:
        """How many of the images arrive; None if unknown, as for several publishers at once."""
        return self.intake.arrivals.rate if self.publisher_count == 1 else None

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

    def warn_about_stamps(self, stream: StreamReport, previous: StreamReport) -> None:
        """Log a throttled warning about what is wrong with the stamps since an earlier report."""
        reasons = "; ".join(reason.text for reason in stamp_reasons(stream, previous))
        if reasons:
            self._throttle.warning(f"stamps {self.topic}", f"{self.topic}: {reasons}")

    def update_reliability(self) -> None:
        """Replace the subscription if the publishers ask for another reliability now.

        Called when a publisher appears or disappears; where rclpy does not report that, by
        ``refresh``.
        """
        with self._subscription_lock:
            current, wanted = self._subscription, self._wanted_reliability()
            if current is None or current.qos_profile.reliability == wanted:
                return
            # rclpy raises in the executor if an event of a destroyed subscription is pending, and
            # this may be the callback of one of several.
            self._retired.append(current)
            self._subscribe(wanted)
        self._logger.info(
            f"subscribed to {self.topic} with reliability {wanted.name.lower()}: "
            + qos.describe_reliabilities(self._publishers())
        )

    def refresh(self) -> None:
        """Follow changes of publishers that were not reported; free old subscriptions."""
        self._destroy_retired()
        self.update_reliability()
        publishers = {bytes(endpoint.endpoint_gid) for endpoint in self._publishers()}
        if publishers != self._known_publishers:
            self._known_publishers = publishers
            self.intake.arrivals.clear()  # the time without a publisher is not a loss

    def destroy(self) -> None:
        with self._subscription_lock:
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                self._retired.append(subscription)
        self._destroy_retired()

    def _destroy_retired(self) -> None:
        with self._subscription_lock:
            retired, self._retired = self._retired, []
        for subscription in retired:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        profile = qos.image_profile(reliability)
        self._number = number = self._number + 1

        def receive(message: Image | CompressedImage) -> None:
            if number == self._number:  # not retired
                self._receive(message)

        self._subscription = self._node.create_subscription(
            CompressedImage if self.source.compressed else Image,
            self.topic,
            receive,
            profile,
            callback_group=self._group,
            event_callbacks=qos.subscription_events(
                self._node,
                self.topic,
                profile,
                lambda line: self._on_incompatible(line, number),
                self.update_reliability,
            ),
        )

    def _wanted_reliability(self) -> ReliabilityPolicy:
        if self._requested != qos.AUTO:
            return ReliabilityPolicy[self._requested.upper()]
        return qos.best_reliability(self._publishers())

    def _publishers(self) -> list[Any]:
        return self._node.get_publishers_info_by_topic(self.topic)

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

    def _on_incompatible(self, line: str, number: int) -> None:
        if number == self._number:
            self.update_reliability()
        if number == self._number:  # else the subscription was replaced, here or meanwhile
            # Not throttled: the event occurs once per publisher.
            self._logger.warning(line)
