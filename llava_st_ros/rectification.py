"""Rectification of images by a camera's calibration, as image_proc does it. No ROS."""

from __future__ import annotations

import cv2
import numpy as np

from llava_st_ros.camera_geometry import Calibration, distortion
from llava_st_ros.errors import ConfigError

MAX_ROTATION_ERROR = 1e-3  # of R: how far its rows are from orthonormal


class Rectification:
    """Two maps from the pixels of the rectified image to those of the raw one, made once.

    The rectified image has the size of the raw one; where the camera sees nothing, it is black.
    ``r``, ``p`` and the distortion model are those of sensor_msgs/CameraInfo. With binning or a roi
    the result is the same part of the rectified full image.

    Args:
        calibration: The camera's calibration. The maps take 6 bytes for each pixel.

    Raises:
        ConfigError: The camera is not calibrated, its distortion model is not known, or the
            rectified image shows nothing of the raw one.
    """

    def __init__(self, calibration: Calibration) -> None:
        raw = calibration.matrix(is_rectified=False)
        rectified = calibration.matrix(is_rectified=True)
        coefficients, is_fisheye = distortion(calibration)
        rotation = _rotation(calibration)
        size = calibration.image_size
        if coefficients is None:
            coefficients = np.zeros(5)
        make_maps = (
            cv2.fisheye.initUndistortRectifyMap if is_fisheye else cv2.initUndistortRectifyMap
        )
        # Fixed-point maps, to 1/32 px, are faster than floats.
        self._maps = make_maps(raw, coefficients, rotation, rectified, size, cv2.CV_16SC2)
        self._calibration = calibration
        x, y = self._maps[0][..., 0], self._maps[0][..., 1]
        if not ((x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])).any():
            raise ConfigError(
                "CameraInfo maps no pixel of the image into the rectified image",
                "calibrate the camera",
            )

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the rectified image.

        Args:
            image: uint8 [H, W, 3].

        Raises:
            ConfigError: The size is not that of the calibration.
        """
        height, width = image.shape[:2]
        self._calibration.check_size(width, height)
        rectified: np.ndarray = cv2.remap(image, *self._maps, cv2.INTER_LINEAR)
        return rectified


def _rotation(calibration: Calibration) -> np.ndarray:
    values = np.array(calibration.r, np.float64)
    if values.size == 9 and np.isfinite(values).all():
        rotation: np.ndarray = values.reshape(3, 3)
        error = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if error <= MAX_ROTATION_ERROR and np.linalg.det(rotation) > 0:
            return rotation
    shown = ", ".join(f"{value:g}" for value in values.ravel())
    raise ConfigError(f"CameraInfo has the invalid R [{shown}]; expected a rotation")
