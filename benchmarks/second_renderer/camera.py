"""A pinhole camera that may move slowly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraPose:
    """A pinhole camera.

    Attributes:
        eye: Its position, [3] in meters.
        axes: Its right, down and forward unit vectors, [3, 3], one a row.
        focal: Focal lengths in x and y in halves of the image's width and height.
    """

    eye: np.ndarray
    axes: np.ndarray
    focal: tuple[float, float]

    @classmethod
    def looking_at(
        cls,
        target: np.ndarray,
        orbit: tuple[float, float, float],
        roll: float,
        focal: tuple[float, float],
    ) -> CameraPose:
        """Return a camera on an orbit.

        Args:
            target: What it looks at, [3].
            orbit: Azimuth and elevation in radians, and distance in meters.
            roll: In radians.
            focal: As the attribute.
        """
        azimuth, elevation, distance = orbit
        c, s = math.cos(elevation), math.sin(elevation)
        forward = -np.array([c * math.cos(azimuth), c * math.sin(azimuth), s])
        right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        down = np.cross(forward, right)
        turned = math.cos(roll) * right + math.sin(roll) * down
        return cls(
            target - distance * forward,
            np.stack([turned, np.cross(forward, turned), forward]),
            (float(focal[0]), float(focal[1])),
        )

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points [..., 3] to x and y in [0, 1] within the image, and depth, [..., 3]."""
        local = (points - self.eye) @ self.axes.T
        depth = local[..., 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        x = 0.5 + 0.5 * self.focal[0] * local[..., 0] / safe
        y = 0.5 + 0.5 * self.focal[1] * local[..., 1] / safe
        return np.stack([x, y, depth], axis=-1)

    def directions(self, size: int) -> np.ndarray:
        """Return the directions of the rays through the pixels' centers, [S, S, 3].

        Their component along the optical axis is 1, so that a ray's parameter is the depth.
        """
        centers = (2 * np.arange(size) + 1) / size - 1
        x, y = np.meshgrid(centers / self.focal[0], centers / self.focal[1])
        return np.asarray(np.stack([x, y, np.ones_like(x)], axis=-1) @ self.axes)

    def extent(self, center: np.ndarray, radius: float) -> tuple[float, float, float, float]:
        """Return a box x1, y1, x2, y2 in the image that contains a ball; all of it if it is near.

        Per axis, the ball is seen within the angle asin(radius / distance) of its center, where
        center and distance are those of its projection to the plane of the axis.
        """
        local = self.axes @ (center - self.eye)
        edges = []
        for axis in (0, 1):
            distance = math.hypot(local[axis], local[2])
            if radius >= distance:
                return (0.0, 0.0, 1.0, 1.0)
            middle, half = math.atan2(local[axis], local[2]), math.asin(radius / distance)
            low, high = middle - half, middle + half
            if high <= -math.pi / 2 or low >= math.pi / 2:
                return (2.0, 2.0, 2.0, 2.0)  # behind the camera
            edges.append(
                [
                    -9.0 if low <= -math.pi / 2 else 0.5 + 0.5 * self.focal[axis] * math.tan(low),
                    9.0 if high >= math.pi / 2 else 0.5 + 0.5 * self.focal[axis] * math.tan(high),
                ]
            )
        return (edges[0][0], edges[1][0], edges[0][1], edges[1][1])


@dataclass(frozen=True)
class MovingCamera:
    """A camera that sways slowly around what it looks at.

    Attributes:
        target: [3] in meters.
        orbit: Azimuth and elevation in radians, and distance in meters, at time 0.
        sway: Amplitudes of the three; zeros for a static camera.
        period: Of the sway, in seconds.
        roll: In radians.
        focal: As in ``CameraPose``.
    """

    target: np.ndarray
    orbit: tuple[float, float, float]
    sway: tuple[float, float, float]
    period: float
    roll: float
    focal: tuple[float, float]

    def pose_at(self, time: float) -> CameraPose:
        """Return the pose at a time in seconds."""
        phase = math.sin(2 * math.pi * time / self.period)
        azimuth, elevation, distance = (o + s * phase for o, s in zip(self.orbit, self.sway))
        orbit = (azimuth, min(elevation, math.pi / 2 - 1e-3), distance)
        return CameraPose.looking_at(self.target, orbit, self.roll, self.focal)
