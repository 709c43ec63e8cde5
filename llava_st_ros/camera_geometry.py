"""From a box on an image and a registered depth image to a box in space.

Coordinates are those of the camera's optical frame (REP 103): x right, y down, z forward, meters.
Pixels are counted from the outer corner of the top left pixel, as in all boxes of this package;
CameraInfo and OpenCV count from the center of that pixel, half a pixel less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from llava_st_ros.errors import ConfigError, FrameError, LlavaStError
from llava_st_ros.records import Box

CENTRAL_SHARE = 0.5  # of a box's width and height: where its depth is measured
VALID_SHARE = 0.1  # of the central pixels that must have a depth
MAX_PIXELS = 10_000  # of a box that are read; of a larger one, every second, third, ... of a row
SURFACE = (0.05, 0.95)  # the part of the sorted depths between the front and the back
MIN_REACH = 0.02  # of the depth: pixels this near to it are of the object, however small it is
MAX_REPROJECTION = 1.0  # pixels between a point and its ray, seen through the lens
DISTORTION_LENGTHS = {  # coefficients of each model of sensor_msgs/CameraInfo that OpenCV has
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
DEPTH_TYPES = {"16UC1": ("u2", 1e-3), "mono16": ("u2", 1e-3), "32FC1": ("f4", 1.0)}  # REP 118


class UnlocatedError(LlavaStError):
    """A box whose place in space cannot be determined."""


@dataclass(frozen=True)
class Box3D:
    """An axis-aligned box in the camera's optical frame, in meters.

    Attributes:
        center: x, y, z.
        size: Extents along x, y and z. Along z only the visible surface counts.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]


@dataclass(frozen=True)
class Calibration:
    """The values of a sensor_msgs/CameraInfo.

    Attributes:
        width: Of the calibrated image, pixels.
        height: Of the calibrated image, pixels.
        k: The camera matrix of the raw image, row by row.
        d: The distortion coefficients.
        p: The projection matrix [3, 4] of the rectified image, row by row.
        model: The distortion model.
        binning: Pixels combined along x and y; 0 means 1.
        roi: x offset, y offset, width and height of the part that is read out; 0 x 0 means all.
        r: The rotation [3, 3] from the camera to the rectified camera, row by row.
    """

    width: int
    height: int
    k: tuple[float, ...]
    d: tuple[float, ...]
    p: tuple[float, ...]
    model: str
    binning: tuple[int, int] = (0, 0)
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)
    r: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the images, with the binning and the roi."""
        bin_x, bin_y = self._factors
        _, _, width, height = self._window
        return width // bin_x, height // bin_y

    def check_size(self, width: int, height: int) -> None:
        """Raise ConfigError if images of this size are not those of the calibration."""
        if (width, height) != self.image_size:
            expected = "{}x{}".format(*self.image_size)
            raise ConfigError(
                f"CameraInfo is for {expected} images (with its binning and roi), "
                f"but the images are {width}x{height}"
            )

    def matrix(self, *, is_rectified: bool) -> np.ndarray:
        """Return the camera matrix of the images, with the binning and the roi, float64 [3, 3].

        Args:
            is_rectified: Of the rectified images: the first columns of ``p``; else ``k``.

        Raises:
            ConfigError: The camera is not calibrated.
        """
        name, values = ("P", self.p) if is_rectified else ("K", self.k)
        columns = 4 if is_rectified else 3
        if len(values) != 3 * columns or not np.isfinite(values).all():
            raise ConfigError(f"CameraInfo has the invalid {name} {_short(values)}")
        matrix = np.array(values, np.float64).reshape(3, columns)[:, :3]
        if not matrix[0, 0] > 0 or not matrix[1, 1] > 0:
            raise ConfigError(
                f"CameraInfo has no calibration: {name} is {_short(values)}", "calibrate the camera"
            )
        left, top, _, _ = self._window
        matrix[:2, 2] -= left, top
        matrix[:2] /= np.array(self._factors)[:, None]
        return matrix

    @property
    def _factors(self) -> tuple[int, int]:
        return max(1, self.binning[0]), max(1, self.binning[1])

    @property
    def _window(self) -> tuple[int, int, int, int]:
        left, top, width, height = self.roi
        return (left, top, width, height) if width and height else (0, 0, self.width, self.height)


class CameraModel:
    """The rays of a camera's pixels.

    Args:
        calibration: The camera's calibration.
        is_rectified: Whether the images are rectified: ``p`` applies, and there is no distortion.
            Its fourth column is not used: the rays are those of this camera, also of a stereo pair.

    Raises:
        ConfigError: The camera is not calibrated, or its distortion model is not known.
    """

    def __init__(self, calibration: Calibration, *, is_rectified: bool) -> None:
        self.width, self.height = calibration.image_size
        self._calibration = calibration
        self._matrix = calibration.matrix(is_rectified=is_rectified)
        self._distortion, self._is_fisheye = (
            (None, False) if is_rectified else distortion(calibration)
        )

    def check_size(self, width: int, height: int) -> None:
        """Raise ConfigError if images of this size are not those of the calibration."""
        self._calibration.check_size(width, height)

    def rays(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        """Return x/z and y/z of the rays through points on the image, float64 [N, 2].

        Args:
            points: x and y in pixels.

        Raises:
            UnlocatedError: The lens model has no ray through a point.
        """
        pixels = np.array(points, np.float64).reshape(-1, 2) - 0.5
        matrix = self._matrix
        if self._distortion is None:
            focal = np.array([matrix[0, 0], matrix[1, 1]])
            flat: np.ndarray = (pixels - matrix[:2, 2]) / focal
            return flat
        lens = cv2.fisheye if self._is_fisheye else cv2
        rays = lens.undistortPoints(pixels[:, None], matrix, self._distortion).reshape(-1, 2)
        # Beyond the field of view that was calibrated, the iteration ends anywhere.
        if np.isfinite(rays).all() and np.abs(rays).max() < 1e4:
            directions = np.concatenate([rays, np.ones((len(rays), 1))], 1)[:, None]
            none = np.zeros(3)
            seen, _ = lens.projectPoints(directions, none, none, matrix, self._distortion)
            if np.abs(seen.reshape(-1, 2) - pixels).max() <= MAX_REPROJECTION:
                return rays
        raise UnlocatedError("outside of the lens model")


def distortion(calibration: Calibration) -> tuple[np.ndarray | None, bool]:
    """Return the distortion coefficients of raw images, and whether it is a fisheye lens.

    None if all are 0, in every model, as image_geometry has it.

    Raises:
        ConfigError: The distortion model is not known, or a coefficient is not finite.
    """
    if not any(calibration.d):
        return None, False
    lengths = DISTORTION_LENGTHS.get(calibration.model)
    if lengths is None or len(calibration.d) not in lengths:
        known = ", ".join(DISTORTION_LENGTHS)
        raise ConfigError(
            f"CameraInfo has the distortion model {calibration.model!r} with "
            f"{len(calibration.d)} coefficients; expected one of {known}",
            "use rectified images",
        )
    coefficients = np.array(calibration.d, np.float64)
    if not np.isfinite(coefficients).all():
        raise ConfigError(f"CameraInfo has the invalid D {_short(calibration.d)}")
    return coefficients, calibration.model == "equidistant"


@dataclass(frozen=True)
class DepthImage:
    """A depth image (REP 118).

    Attributes:
        pixels: Millimeters as uint16 or meters as float32, [H, W]; may be a view.
        unit: Meters per step.
    """

    pixels: np.ndarray
    unit: float

    @classmethod
    def from_buffer(
        cls, data: object, encoding: str, width: int, height: int, step: int, *, big_endian: bool
    ) -> DepthImage:
        """View the data of a sensor_msgs/Image. Raises FrameError."""
        if encoding not in DEPTH_TYPES:
            raise FrameError(
                f"the depth image has encoding {encoding!r}; expected {' or '.join(DEPTH_TYPES)}"
            )
        code, unit = DEPTH_TYPES[encoding]
        kind = np.dtype((">" if big_endian else "<") + code)
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if not width or not height or step < width * kind.itemsize or size < step * height:
            raise FrameError(
                f"the depth image has {size} bytes and a step of {step}; expected {height} rows of "
                f"{width} pixels of {kind.itemsize} bytes"
            )
        strides = (step, kind.itemsize)
        return cls(np.ndarray((height, width), kind, data, strides=strides), unit)  # type: ignore[arg-type]

    def meters(self, corners: tuple[float, float, float, float]) -> tuple[np.ndarray, int]:
        """Return the depths inside a box, sorted, and the number of pixels that were read.

        Args:
            corners: x_min, y_min, x_max, y_max in pixels; a box without area has one pixel.
        """
        height, width = self.pixels.shape
        left, right = _interval(corners[0], corners[2], width)
        top, bottom = _interval(corners[1], corners[3], height)
        every = int(np.ceil(np.sqrt((right - left) * (bottom - top) / MAX_PIXELS)))
        found = self.pixels[top:bottom:every, left:right:every].astype(np.float64) * self.unit
        return np.sort(found[np.isfinite(found) & (found > 0)]), found.size


def locate(box: Box, depth: DepthImage, camera: CameraModel) -> Box3D:
    """Find the place of an object in space.

    The depth is the median of the pixels in the central half of the box. The object is as wide and
    high as the box at this depth. Its surface is what else of the box is nearer to the median than
    half the object's larger side, and extends from the 5th to the 95th percentile of that.

    Args:
        box: The object's box on the image.
        depth: A depth image registered to the image, of its size.
        camera: The camera of the image.

    Raises:
        UnlocatedError: Too few central pixels have a depth (zero, NaN and infinity are none), or
            the lens model does not include the box.
    """
    height, width = depth.pixels.shape
    x_min, y_min, x_max, y_max = box.clipped().to_pixels(width, height)
    middle_x, middle_y = (x_min + x_max) / 2, (y_min + y_max) / 2
    half_x, half_y = (x_max - x_min) / 2 * CENTRAL_SHARE, (y_max - y_min) / 2 * CENTRAL_SHARE
    central, read = depth.meters(
        (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
    )
    if len(central) < max(1.0, VALID_SHARE * read):
        raise UnlocatedError("too few depth pixels")
    distance = _quantile(central, 0.5)
    # The middles of the sides: an object rarely reaches the corners, which a lens moves the most.
    rays = camera.rays([(x_min, middle_y), (x_max, middle_y), (middle_x, y_min), (middle_x, y_max)])
    (left, right), (top, bottom) = rays[:2, 0], rays[2:, 1]
    size_x, size_y = max(0.0, right - left) * distance, max(0.0, bottom - top) * distance
    reach = max(size_x / 2, size_y / 2, MIN_REACH * distance)
    inside, _ = depth.meters((x_min, y_min, x_max, y_max))
    surface = inside[np.abs(inside - distance) <= reach]
    if not len(surface):  # of a large box, not every pixel is read
        surface = central[np.abs(central - distance) <= reach]
    front, back = (_quantile(surface, part) for part in SURFACE)
    z = (front + back) / 2
    center = (float(left + right) / 2 * z, float(top + bottom) / 2 * z, z)
    return Box3D(center, (float(size_x), float(size_y), back - front))


def transformed(
    point: tuple[float, float, float],
    rotation: tuple[float, float, float, float],
    translation: tuple[float, float, float],
) -> tuple[float, float, float]:
    """Rotate a point by a unit quaternion (x, y, z, w), then translate it."""
    axis, w = np.array(rotation[:3]), rotation[3]
    vector = np.array(point)
    across = 2 * np.cross(axis, vector)
    x, y, z = vector + w * across + np.cross(axis, across) + np.array(translation)
    return float(x), float(y), float(z)


def _interval(low: float, high: float, size: int) -> tuple[int, int]:
    """The pixels that an interval covers or touches inside, at least one: [first, last)."""
    first = min(max(0, int(np.floor(low))), size - 1)
    return first, min(max(first + 1, int(np.ceil(high))), size)


def _quantile(ordered: np.ndarray, part: float) -> float:
    """A measured value, not a mean of two: between two surfaces there is nothing."""
    return float(ordered[round(part * (len(ordered) - 1))])


def _short(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values[:12])}]"
