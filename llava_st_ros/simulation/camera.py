"""The camera: where it stands at any moment, through which lens, and how it projects.

Lengths in metres, angles in degrees, z = 0 is the table's top, the camera looks roughly along +y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of a hand that holds the camera: Hz, share of the amplitude (sum 1), phase across and up.
_TREMOR = ((3.1, 0.5, 0.3, 1.9), (5.3, 0.3, 2.1, 4.4), (8.7, 0.2, 5.2, 0.7))
_SWAY = np.array([0.025, 0.04, 6.0, 3.0])  # most of x (m), distance (share), azimuth, elevation


@dataclass(frozen=True)
class CameraPose:
    """MuJoCo's free camera at one moment; ``fovy`` is the whole vertical angle of its lens."""

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float
    fovy: float

    @property
    def axes(self) -> np.ndarray:
        """[3, 3]: the picture's right, its up, and forward."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        level = math.cos(elevation)
        forward = np.array(
            [level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)]
        )
        right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
        return np.stack([right, np.cross(right, forward), forward])

    @property
    def eye(self) -> np.ndarray:
        """Where the lens is, [3]."""
        return self.lookat - self.distance * self.axes[2]

    @property
    def focal(self) -> float:
        """In picture widths."""
        return 0.5 / math.tan(math.radians(self.fovy) / 2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] points -> [N, 3]: u, v in [0, 1] of the image, and depth in metres."""
        return PoseBatch([self]).project(np.atleast_2d(points))[0]

    def scale_at(self, depth: float) -> float:
        """Image widths per metre at that depth."""
        return self.focal / depth


@dataclass(frozen=True)
class CameraTrajectory:
    """A pose as a function of time (s); a static camera has zero ``sway`` and ``shake``.

    ``shake`` bounds the trembling, as an angle; ``period`` is that of the slow sway.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float
    sway: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # x, distance, azimuth, elev.
    period: float = 10.0
    phase: float = 0.0
    shake: float = 0.0

    @property
    def is_moving(self) -> bool:
        return any(self.sway) or self.shake > 0

    @property
    def width(self) -> float:
        """Metres that the picture spans at the point looked at."""
        return 2 * self.distance * math.tan(math.radians(self.fovy) / 2)

    def at(self, time: float) -> CameraPose:
        swing = math.sin(2 * math.pi * time / self.period + self.phase)
        other = math.sin(2 * math.pi * time / (1.7 * self.period) + 2.0 * self.phase)
        x, distance, azimuth, elevation = self.sway
        pose = CameraPose(
            np.array(self.lookat) + np.array([x * other, 0.0, 0.0]),
            self.distance * (1 + distance * other),
            self.azimuth + azimuth * swing,
            self.elevation + elevation * other,
            self.fovy,
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
    """Several poses at once; ``focal`` [P] in picture widths."""

    def __init__(self, poses: Sequence[CameraPose]) -> None:
        self._axes = np.stack([pose.axes for pose in poses])
        self._eyes = np.stack([pose.eye for pose in poses])
        self.focal = np.array([pose.focal for pose in poses])

    def project(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] -> [P, N, 3]: u, v in [0, 1] of the image, and depth in metres."""
        x, y, depth = self._relative(points)
        u, v = 0.5 + self.focal[:, None] * x / depth, 0.5 - self.focal[:, None] * y / depth
        return np.stack([u, v, depth], axis=2)

    def sphere_boxes(self, points: np.ndarray, radius: float) -> np.ndarray:
        """[N, 3] centers of spheres -> their exact boxes [P, N, 4], NaN where not in front."""
        x, y, depth = self._relative(points)
        with np.errstate(invalid="ignore", divide="ignore"):
            square = np.where(depth > radius, depth**2 - radius**2, np.nan)
            x_half = radius * np.sqrt(x**2 + square)
            y_half = radius * np.sqrt(y**2 + square)
            left, right = (x * depth - x_half) / square, (x * depth + x_half) / square
            low, high = (y * depth - y_half) / square, (y * depth + y_half) / square
        slopes = np.stack([left, -high, right, -low], axis=2)
        return 0.5 + self.focal[:, None, None] * slopes

    def _relative(self, points: np.ndarray) -> np.ndarray:
        """[3, P, N]: across, up and depth."""
        moved = points[None] - self._eyes[:, None]
        return np.einsum("pij,pnj->ipn", self._axes, moved)


def sample_camera(
    rng: np.random.Generator, fovy: tuple[float, float], width: float, shaken: bool
) -> CameraTrajectory:
    """A camera that sees ``width`` metres across; half of them sway, ``shaken`` ones may shake."""
    sway = (0.0, 0.0, 0.0, 0.0)
    if rng.random() < 0.5:
        signs = rng.uniform(0.3, 1.0, 4) * rng.choice([-1.0, 1.0], 4)
        sway = tuple(float(v) for v in signs * _SWAY)  # type: ignore[assignment]
    angle = float(rng.uniform(*fovy))
    trembles = shaken and rng.random() < 0.45
    return CameraTrajectory(
        lookat=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.03)), 0.05),
        distance=width / (2 * math.tan(math.radians(angle) / 2)),
        azimuth=float(rng.uniform(70, 110)),
        elevation=float(rng.uniform(-52, -28)),
        fovy=angle,
        sway=sway,
        period=float(rng.uniform(8, 14)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        shake=float(rng.uniform(0.08, 0.012 * angle)) if trembles else 0.0,
    )
