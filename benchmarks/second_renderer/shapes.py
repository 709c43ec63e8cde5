"""Balls, boxes, cylinders and capsules: their intersections with rays, and their footprints.

Lengths are in meters. Every shape has its center at the origin of its own frame. The z axis is the
axis of cylinders and capsules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llava_st_ros.simulation.scenes import SimulatedObject

_PARALLEL = 1e-12  # replaces components of directions that are zero
_CIRCLE = np.linspace(0, 2 * math.pi, 32, endpoint=False)


@dataclass(frozen=True)
class Shape:
    """A convex solid.

    Attributes:
        kind: "ball", "box", "cylinder" or "capsule".
        half: Half extents in x, y and z. Of a capsule: radius, radius, and half the length of its
            cylindrical part plus the radius.
    """

    kind: str
    half: tuple[float, float, float]

    @classmethod
    def of(cls, item: SimulatedObject) -> Shape:
        """Return the shape of an object: ``scale`` is half the side of a cube of like size."""
        x, y, z = (item.scale * factor for factor in item.proportions)
        if item.shape == "capsule":
            radius = 0.6 * x
            return cls("capsule", (radius, radius, radius + 0.7 * z))
        return cls(item.shape, (x, y, z))

    @property
    def bound(self) -> float:
        """The radius of the sphere around the center that contains the shape."""
        x, y, z = self.half
        if self.kind == "box":
            return math.sqrt(x * x + y * y + z * z)
        return math.hypot(x, z) if self.kind == "cylinder" else max(x, z)

    @property
    def rest_height(self) -> float:
        """The height of the center above the ground at rest; a capsule lies."""
        return self.half[0] if self.kind == "capsule" else self.half[2]

    @property
    def footprint(self) -> np.ndarray:
        """The corners of its outline from above at rest and at yaw 0, [N, 2]."""
        x, y, z = self.half
        if self.kind == "box":
            return np.array([[x, y], [-x, y], [-x, -y], [x, -y]])
        circle = x * np.column_stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])
        if self.kind == "capsule":
            circle[:, 0] += np.where(circle[:, 0] > 0, z - x, x - z)
        return circle

    @property
    def radius(self) -> float:
        """The radius of the upright cylinder that contains it at rest, for any yaw."""
        return float(np.linalg.norm(self.footprint, axis=1).max())

    def rotation(self, yaw: float) -> np.ndarray:
        """Return its rotation [3, 3] at rest: about z; a capsule's axis is then along x."""
        c, s = math.cos(yaw), math.sin(yaw)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return turn @ _LYING if self.kind == "capsule" else turn

    def intersect(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Intersect rays with the shape, in its own frame.

        Args:
            origins: [3] or [N, 3], outside the shape.
            directions: [N, 3], of any length.

        Returns:
            The parameter t of the first hit at origin + t * direction with t > 0, inf for none,
            [N]; and the outward unit normal there, [N, 3], undefined for none.
        """
        directions = np.where(np.abs(directions) < _PARALLEL, _PARALLEL, directions)
        x, _, z = self.half
        if self.kind == "ball":
            return _ball(origins, directions, x, 0.0)
        if self.kind == "box":
            return _box(origins, directions, np.array(self.half))
        if self.kind == "cylinder":
            return _first(
                _tube(origins, directions, x, z),
                _disc(origins, directions, x, z),
                _disc(origins, directions, x, -z),
            )
        return _first(
            _tube(origins, directions, x, z - x),
            _ball(origins, directions, x, z - x),
            _ball(origins, directions, x, x - z),
        )


_LYING = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # z becomes x

Hits = tuple[np.ndarray, np.ndarray]


def _ball(origins: np.ndarray, directions: np.ndarray, radius: float, height: float) -> Hits:
    start = origins - np.array([0.0, 0.0, height])
    length2 = _dot(directions, directions)
    nearest = -_dot(start, directions) / length2
    foot = start + nearest[:, None] * directions
    inside = radius**2 - _dot(foot, foot)
    t = nearest - np.sqrt(np.maximum(inside, 0) / length2)
    hit = (inside > 0) & (t > 0)
    return np.where(hit, t, np.inf), (start + t[:, None] * directions) / radius


def _box(origins: np.ndarray, directions: np.ndarray, half: np.ndarray) -> Hits:
    near = (-np.sign(directions) * half - origins) / directions
    far = (np.sign(directions) * half - origins) / directions
    axis = np.where(near[:, 0] > near[:, 1], 0, 1)
    rows = np.arange(len(directions))
    axis = np.where(near[rows, axis] > near[:, 2], axis, 2)
    t = near[rows, axis]
    leaves = np.minimum(np.minimum(far[:, 0], far[:, 1]), far[:, 2])
    hit = (t < leaves) & (t > 0)
    normals = np.zeros_like(directions)
    normals[rows, axis] = -np.sign(directions[rows, axis])
    return np.where(hit, t, np.inf), normals


def _tube(origins: np.ndarray, directions: np.ndarray, radius: float, half: float) -> Hits:
    """Intersect with the lateral surface of a cylinder."""
    start, along = origins[..., :2], directions[:, :2]
    length2 = _dot(along, along)
    nearest = -_dot(start, along) / length2
    foot = start + nearest[:, None] * along
    inside = radius**2 - _dot(foot, foot)
    t = nearest - np.sqrt(np.maximum(inside, 0) / length2)
    points = origins + t[:, None] * directions
    hit = (inside > 0) & (t > 0) & (np.abs(points[:, 2]) <= half)
    return np.where(hit, t, np.inf), points * [1.0, 1.0, 0.0] / radius


def _disc(origins: np.ndarray, directions: np.ndarray, radius: float, height: float) -> Hits:
    t = (height - origins[..., 2]) / directions[:, 2]
    points = origins + t[:, None] * directions
    hit = (t > 0) & (_dot(points[:, :2], points[:, :2]) <= radius**2)
    normals = np.zeros_like(directions)
    normals[:, 2] = math.copysign(1.0, height)
    return np.where(hit, t, np.inf), normals


def _first(*parts: Hits) -> Hits:
    """Return the first hits on several parts, none of which is entered through another."""
    t = np.stack([part[0] for part in parts])
    chosen = t.argmin(axis=0)
    rows = np.arange(t.shape[1])
    return t[chosen, rows], np.stack([part[1] for part in parts])[chosen, rows]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scalar products of vectors [..., K]; faster than a sum over a short axis."""
    return np.asarray(np.einsum("...k,...k->...", a, b))


def contact_distance(
    first: Shape, second: Shape, yaws: tuple[float, float], direction: np.ndarray
) -> float:
    """Return how far apart two shapes at rest are when they touch.

    Args:
        first: The moving shape.
        second: The shape that it touches.
        yaws: Their yaws in radians.
        direction: Unit vector [2] from the first to the second center.

    Returns:
        The distance of their centers, by the separating axis theorem: the least of reach(a) / (a .
        direction) over axes a, where reach is the sum of the footprints' support functions. The
        axes are sampled: the distance is too large by up to a millimeter.
    """
    outlines = [
        shape.footprint @ np.array([[math.cos(y), math.sin(y)], [-math.sin(y), math.cos(y)]])
        for shape, y in zip((first, second), yaws)
    ]
    angles = np.linspace(-1.2, 1.2, 97) + math.atan2(direction[1], direction[0])
    axes = np.column_stack([np.cos(angles), np.sin(angles)])
    reach = (outlines[0] @ axes.T).max(axis=0) + (-outlines[1] @ axes.T).max(axis=0)
    return float((reach / (axes @ direction)).min())
