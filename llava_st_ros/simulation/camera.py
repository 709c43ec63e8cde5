"""Camera poses over time and their pinhole projection.

Lengths are in meters and angles in degrees; z = 0 is the table top, and the camera looks roughly
along +y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.worlds import World, sample

# Tremor of a handheld camera as a sum of sines: frequency (Hz), share of the amplitude (sum 1),
# horizontal and vertical phase.
_TREMOR = ((3.1, 0.5, 0.3, 1.9), (5.3, 0.3, 2.1, 4.4), (8.7, 0.2, 5.2, 0.7))
_MAX_SWAY = np.array([0.025, 0.04, 6.0, 3.0])  # x (m), distance (relative), azimuth, elevation


@dataclass(frozen=True)
class CameraPose:
    """MuJoCo's free camera at one moment.

    Attributes:
        lookat: The point the camera looks at, [3] in meters.
        distance: Distance from ``lookat``, in meters.
        azimuth: In degrees.
        elevation: In degrees.
        fovy: Vertical field of view in degrees.
        aspect: Width of the image by its height. The image is stored as a square.
    """

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float
    fovy: float
    aspect: float = 1.0

    @property
    def axes(self) -> np.ndarray:
        """The unit vectors right, up and forward, [3, 3]."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        level = math.cos(elevation)
        forward = np.array(
            [level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)]
        )
        right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
        return np.stack([right, np.cross(right, forward), forward])

    @property
    def position(self) -> np.ndarray:
        """The optical center, [3] in meters."""
        return self.lookat - self.distance * self.axes[2]

    @property
    def focal_length(self) -> float:
        """The focal length in image heights."""
        return 0.5 / math.tan(math.radians(self.fovy) / 2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project [N, 3] points to [N, 3]: u, v in [0, 1] of the image, and depth in meters."""
        return PoseBatch([self]).project(np.atleast_2d(points))[0]

    def scale_at(self, depth: float) -> float:
        """Return the image heights per meter at a depth in meters."""
        return self.focal_length / depth


@dataclass(frozen=True)
class CameraTrajectory:
    """A camera pose as a function of time in seconds.

    A static camera has zero ``sway`` and ``shake``.

    Attributes:
        sway: Amplitudes of slow motion in x (m), distance (relative), azimuth and elevation.
        period: Period of the sway in seconds.
        phase: Phase of sway and shake in radians.
        shake: Bound of the tremor as a viewing angle in degrees.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float
    sway: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    period: float = 10.0
    phase: float = 0.0
    shake: float = 0.0
    aspect: float = 1.0

    @property
    def is_moving(self) -> bool:
        return any(self.sway) or self.shake > 0

    @property
    def view_width(self) -> float:
        """The width in meters that the image covers at the point looked at.

        Of an image that is not square, the side of a square of equal area.
        """
        height = 2 * self.distance * math.tan(math.radians(self.fovy) / 2)
        return height if self.aspect == 1.0 else height * math.sqrt(self.aspect)

    def pose_at(self, time: float) -> CameraPose:
        swing = math.sin(2 * math.pi * time / self.period + self.phase)
        slow_swing = math.sin(2 * math.pi * time / (1.7 * self.period) + 2.0 * self.phase)
        x, distance, azimuth, elevation = self.sway
        pose = CameraPose(
            np.array(self.lookat) + np.array([x * slow_swing, 0.0, 0.0]),
            self.distance * (1 + distance * slow_swing),
            self.azimuth + azimuth * swing,
            max(-89.9, self.elevation + elevation * slow_swing),
            self.fovy,
            self.aspect,
        )
        if self.shake:
            amplitude = pose.distance * math.tan(math.radians(self.shake))
            across, up = (
                sum(
                    w * math.sin(2 * math.pi * f * time + p[i] + self.phase) for f, w, *p in _TREMOR
                )
                for i in (0, 1)
            )
            pose.lookat[:] += amplitude * (across * pose.axes[0] + up * pose.axes[1])
        return pose


class PoseBatch:
    """Projection through P poses.

    Attributes:
        focal_lengths: float64 [P] in image heights.
        aspects: Widths of the images by their heights, float64 [P].
    """

    def __init__(self, poses: Sequence[CameraPose]) -> None:
        self._axes = np.stack([pose.axes for pose in poses])
        self._positions = np.stack([pose.position for pose in poses])
        self.focal_lengths = np.array([pose.focal_length for pose in poses])
        self.aspects = np.array([pose.aspect for pose in poses])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project [N, 3] points to [P, N, 3]: u, v in [0, 1] of the image, and depth in meters."""
        x, y, depth = self._camera_coordinates(points)
        focal = self.focal_lengths[:, None]
        u = 0.5 + focal / self.aspects[:, None] * x / depth
        v = 0.5 - focal * y / depth
        return np.stack([u, v, depth], axis=2)

    def sphere_boxes(self, centers: np.ndarray, radius: float) -> np.ndarray:
        """Return the exact image boxes [P, N, 4] of spheres at [N, 3]; NaN where not in front."""
        x, y, depth = self._camera_coordinates(centers)
        with np.errstate(invalid="ignore", divide="ignore"):
            square = np.where(depth > radius, depth**2 - radius**2, np.nan)
            x_half = radius * np.sqrt(x**2 + square)
            y_half = radius * np.sqrt(y**2 + square)
            left, right = (x * depth - x_half) / square, (x * depth + x_half) / square
            low, high = (y * depth - y_half) / square, (y * depth + y_half) / square
        aspects = self.aspects[:, None]
        slopes = np.stack([left / aspects, -high, right / aspects, -low], axis=2)
        return 0.5 + self.focal_lengths[:, None, None] * slopes

    def _camera_coordinates(self, points: np.ndarray) -> np.ndarray:
        """Return x (right), y (up) and depth of [N, 3] points, [3, P, N]."""
        moved = points[None] - self._positions[:, None]
        return np.einsum("pij,pnj->ipn", self._axes, moved)


def sample_camera(
    rng: np.random.Generator, world: World, width: float, can_shake: bool
) -> CameraTrajectory:
    """Sample a camera whose image covers ``width`` meters at the point looked at.

    Half of the cameras sway. With ``can_shake``, some also shake.

    Args:
        rng: The random generator.
        world: The distribution to sample from.
        width: In meters.
        can_shake: Whether the camera may shake.
    """
    sway = (0.0, 0.0, 0.0, 0.0)
    if rng.random() < 0.5:
        signs = rng.uniform(0.3, 1.0, 4) * rng.choice([-1.0, 1.0], 4)
        sway = tuple(float(v) for v in signs * _MAX_SWAY)  # type: ignore[assignment]
    angle = float(rng.uniform(*world.fovy))
    shakes = can_shake and rng.random() < 0.45
    trajectory = CameraTrajectory(
        lookat=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.03)), 0.05),
        distance=width / (2 * math.tan(math.radians(angle) / 2)),
        azimuth=float(rng.uniform(70, 110)),
        elevation=float(rng.uniform(-52, -28)),
        fovy=angle,
        sway=sway,
        period=float(rng.uniform(8, 14)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        shake=float(rng.uniform(0.08, 0.012 * angle)) if shakes else 0.0,
    )
    if world.variety is None:
        return trajectory
    aspect = sample(rng, world.variety.aspect)
    return replace(
        trajectory,
        azimuth=sample(rng, world.variety.azimuth),
        elevation=sample(rng, world.variety.elevation),
        distance=trajectory.distance / math.sqrt(aspect),
        aspect=aspect,
    )
