"""The image subscription of one camera."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros.errors import FrameError
from llava_st_ros.records import Frame
from llava_st_ros.ros.arrival_rate import ArrivalRate
from llava_st_ros.ros.calibrations import ImageRectifier
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.diagnostics import (
    OTHER_CLOCK,
    DurationMeter,
    seconds_since,
    stamp_reasons,
)
from llava_st_ros.ros.image_subscription import ImageSubscription
from llava_st_ros.ros.intake import FrameIntake
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import CameraSource, NodeParameters
from llava_st_ros.ros.track_carrier import ReadFrame
from llava_st_ros.streaming.frame_buffer import StreamReport
from llava_st_ros.streaming.silence import UsualInterval


class CameraSubscription:
    """Decodes each image in the subscription's callback and passes it on.

    Subscribed from construction to ``destroy``.

    Args:
        node: The node that subscribes.
        source: The camera.
        parameters: The node's parameters.
        on_frame: Called with each frame.
        on_skipped: Called with the camera's name, the stamp (ns) and a function that decodes it for
            each image that is no frame because of ``max_frame_rate``.
        throttle: Limits the warnings about dropped frames and missing images.

    Attributes:
        topic: The resolved image topic.
        rectifier: Rectifies its images; None if they are used as they are.
        last_problem: Reason why the last bad message was dropped; empty if there was none.
        callbacks: Durations of the subscription's callbacks.
        delays: Seconds from the images' stamps to their callbacks, unless of another clock.
    """

    def __init__(
        self,
        node: Node,
        source: CameraSource,
        parameters: NodeParameters,
        on_frame: Callable[[Frame], None],
        on_skipped: Callable[[str, int, ReadFrame], None],
        throttle: LogThrottle,
    ) -> None:
        self.source = source
        self.rectifier: ImageRectifier | None = None
        if source in parameters.rectified_cameras:
            info_topic = parameters.info_topic(node, source)
            self.rectifier = ImageRectifier(node, source.name, info_topic, throttle)
        self.intake = FrameIntake(
            source.name,
            parameters.max_frame_rate,
            round(parameters.max_megapixels * 1e6),
            None if self.rectifier is None else self.rectifier.apply,
        )
        self.last_problem = ""
        self.callbacks, self.delays = DurationMeter(), DurationMeter()
        self._clock = node.get_clock()
        self._on_frame, self._on_skipped, self._throttle = on_frame, on_skipped, throttle
        self._subscribed_at = time.monotonic()
        self._last_arrival: float | None = None
        self._usual_interval = UsualInterval()
        self.topic = node.resolve_topic_name(source.topic) + source.suffix
        self._subscription = ImageSubscription(
            node,
            CompressedImage if source.compressed else Image,
            self.topic,
            parameters.image_reliability,
            self._receive,
        )

    @property
    def publisher_count(self) -> int:
        """The number of publishers of the topic."""
        return self._subscription.publisher_count

    @property
    def reliability(self) -> str:
        """The reliability of the subscription; empty once it is destroyed."""
        return self._subscription.reliability

    @property
    def lost(self) -> int:
        """The number of images that the middleware reports as lost."""
        return self._subscription.lost

    @property
    def arrivals(self) -> ArrivalRate | None:
        """How many of the images arrive; None if unknown, as for several publishers at once."""
        return self.intake.arrivals.rate if self.publisher_count == 1 else None

    @property
    def silence(self) -> float:
        """Seconds since the last message, or since the subscription was made."""
        since = self._subscribed_at if self._last_arrival is None else self._last_arrival
        return time.monotonic() - since

    def silence_limit(self, timeout: float) -> float:
        """Return the seconds without a message after which the camera is silent.

        Args:
            timeout: Seconds; a slow camera has longer.
        """
        return max(timeout, self._usual_interval.longest_pause)

    def warn_if_silent(self, timeout: float) -> None:
        """Log a throttled warning if the camera is silent; see ``silence_limit``."""
        if self.silence < self.silence_limit(timeout):
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

    def refresh(self) -> None:
        """Follow changes of publishers that were not reported; free old subscriptions."""
        if self.rectifier is not None:
            self.rectifier.refresh()
        if self._subscription.refresh():
            self.intake.arrivals.clear()  # the time without a publisher is not a loss

    def destroy(self) -> None:
        self._subscription.destroy()
        if self.rectifier is not None:
            self.rectifier.destroy()

    def _receive(self, message: Image | CompressedImage) -> None:
        now, last = time.monotonic(), self._last_arrival
        if last is not None:
            self._usual_interval.add(now - last)
        self._last_arrival = now
        delay = seconds_since(stamp_from_msg(message.header.stamp), self._clock)
        if delay is not None and abs(delay) < OTHER_CLOCK:
            self.delays.add(delay)
        self._read(message)
        self.callbacks.add(time.monotonic() - now)

    def _read(self, message: Image | CompressedImage) -> None:
        try:
            frame = self.intake.read(message)
        except FrameError as error:
            self._report(error)
            return
        if frame is not None:
            self._on_frame(frame)
        else:
            read = partial(self._read_skipped, message, time.monotonic_ns())
            self._on_skipped(self.source.name, stamp_from_msg(message.header.stamp), read)

    def _read_skipped(self, message: Image | CompressedImage, arrival: int) -> Frame | None:
        try:
            return self.intake.read_skipped(message, arrival)
        except FrameError as error:
            self._report(error)
            raise

    def _report(self, error: FrameError) -> None:
        self.last_problem = str(error)
        self._throttle.warning(
            f"bad image {self.topic}",
            f"dropped a frame of {self.topic} ({self.intake.counts.dropped} so far): {error}",
        )
