"""The calibration of a camera as it arrives on its CameraInfo topic, and images rectified by it."""

from __future__ import annotations

import threading
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

from llava_st_ros.camera_geometry import Calibration
from llava_st_ros.errors import ConfigError, FrameError, one_line
from llava_st_ros.rectification import Rectification
from llava_st_ros.ros import qos
from llava_st_ros.ros.diagnostics import DurationMeter, Reason, combine, make_status
from llava_st_ros.ros.image_subscription import ImageSubscription
from llava_st_ros.ros.log_throttle import LogThrottle

STAMP_END = 12  # bytes of a serialized message that begins with a header: encapsulation and stamp


class ImageRectifier:
    """Rectifies the images of one camera by its newest CameraInfo; subscribed until ``destroy``.

    The maps are made with the first image after a calibration that differs in more than its stamp.
    ``apply`` may be called from several threads.

    Args:
        node: The node that subscribes.
        camera: Name of the camera.
        topic: Its CameraInfo topic, resolved.
        throttle: Limits the warnings about calibrations that change.
    """

    def __init__(self, node: Node, camera: str, topic: str, throttle: LogThrottle) -> None:
        self._camera, self._throttle = camera, throttle
        self._lock = threading.Lock()  # of what follows
        self._info: bytes | None = None  # the newest CameraInfo
        # The content of the one in use without its stamp, and its maps or why there are none.
        self._current: tuple[bytes, Rectification | ConfigError] | None = None
        self._rectified = self._changes = self._reported_changes = 0
        self._durations = DurationMeter()
        # Small, and sometimes published once.
        self._infos = ImageSubscription(
            node, CameraInfo, topic, qos.AUTO, self._on_info, raw=True, latched=True
        )

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the rectified image, of the same size.

        Args:
            image: uint8 [H, W, 3].

        Raises:
            FrameError: No CameraInfo has arrived, it is not usable or it is for another size.
        """
        started = time.monotonic()
        try:
            rectified = self._rectification(image.shape[1], image.shape[0]).apply(image)
        except ConfigError as error:
            raise FrameError(f"the image cannot be rectified: {error}") from error
        with self._lock:
            self._rectified += 1
        self._durations.add(time.monotonic() - started)
        return rectified

    def refresh(self) -> None:
        """Follow changes of publishers that were not reported; free old subscriptions."""
        self._infos.refresh()

    def status(self, node_name: str) -> DiagnosticStatus:
        """Return the state for /diagnostics.

        WARN if the calibration has changed since the last call, or if its topic has no publisher.
        """
        with self._lock:
            changes, rectified = self._changes, self._rectified
            new, self._reported_changes = changes - self._reported_changes, changes
            has_info = self._info is not None
        reasons = []
        if not self._infos.publisher_count:
            text = f"no publisher of {self._infos.topic}"
            reasons.append(Reason(DiagnosticStatus.WARN, text))
        if not has_info:
            reasons.append(Reason(DiagnosticStatus.WARN, "no CameraInfo has arrived"))
        if new:
            text = f"the calibration has changed {new} time{'' if new == 1 else 's'}"
            reasons.append(Reason(DiagnosticStatus.WARN, text))
        level, message = combine(reasons, f"{rectified} images rectified")
        return make_status(
            f"{node_name}: rectification {self._camera}",
            level,
            message,
            {
                "camera info topic": self._infos.topic,
                "images rectified": rectified,
                "duration": self._durations.drain(),
                "changes of the calibration": changes,
            },
        )

    def destroy(self) -> None:
        self._infos.destroy()

    def _on_info(self, message: bytes) -> None:
        with self._lock:
            self._info = message

    def _rectification(self, width: int, height: int) -> Rectification:
        """Raises ConfigError."""
        with self._lock:
            message, current = self._info, self._current
            if message is None:
                raise ConfigError(f"no CameraInfo has arrived on {self._infos.topic}")
            content = message[STAMP_END:]
            if current is None or current[0] != content:
                calibration = to_calibration(deserialize_message(message, CameraInfo))
                # Maps are made only for the size of an image that has passed max_megapixels.
                calibration.check_size(width, height)
                self._current = content, _make(calibration)
                if current is not None:
                    self._changes += 1
                    self._warn_about_change()
                current = self._current
        found = current[1]
        if isinstance(found, ConfigError):
            raise ConfigError(found.problem, found.remedy)
        return found

    def _warn_about_change(self) -> None:
        self._throttle.warning(
            f"calibration {self._camera}",
            f"the calibration of camera {self._camera!r} has changed: from now on its images are "
            "rectified by the new one",
        )


def _make(calibration: Calibration) -> Rectification | ConfigError:
    try:
        return Rectification(calibration)
    except ConfigError as error:
        return error
    except Exception as error:  # OpenCV rejects a calibration
        return ConfigError(one_line(error))


def to_calibration(info: CameraInfo) -> Calibration:
    return Calibration(
        info.width,
        info.height,
        tuple(map(float, info.k)),
        tuple(map(float, info.d)),
        tuple(map(float, info.p)),
        info.distortion_model,
        (info.binning_x, info.binning_y),
        (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height),
        tuple(map(float, info.r)),
    )
