"""Objects that no question is about: distractors on the table and an occluder near the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llava_st_ros.simulation.appearance import Color
from llava_st_ros.simulation.camera import CameraTrajectory

# Neutral colors that no object color name describes: gray, white, black and brown.
NEUTRALS: tuple[Color, ...] = (
    (0.45, 0.45, 0.45),
    (0.65, 0.64, 0.62),
    (0.92, 0.92, 0.90),
    (0.08, 0.08, 0.09),
    (0.30, 0.20, 0.13),
    (0.42, 0.31, 0.22),
)
CONE = (0.045, 0.13)  # radius and height of the cone mesh, meters
MAT_TOP = 0.0014  # m: mats are so thin that objects on them are placed as if on the table


@dataclass(frozen=True)
class Distractor:
    """A static thing on the table.

    Objects may be on mats and move across them; all other kinds are obstacles.

    Attributes:
        kind: "mat", "plate", "book", "stone" or "cone".
        position: x and y in meters.
        yaw: In radians.
        half_size: Half the extents in x, y and z, in meters.
        color: RGB in [0, 1].
    """

    kind: str
    position: tuple[float, float]
    yaw: float
    half_size: tuple[float, float, float]
    color: Color

    @property
    def is_solid(self) -> bool:
        return self.kind != "mat"

    @property
    def radius(self) -> float:
        """The radius of the upright bounding cylinder, in meters."""
        if self.kind == "book":
            return math.hypot(*self.half_size[:2])
        return max(self.half_size[:2])


@dataclass(frozen=True)
class Occluder:
    """A pole or a robot arm between camera and table, in a neutral color.

    Attributes:
        kind: "pole" or "arm".
        side: Horizontal position in the image, -0.5 to 0.5 of its width.
        nearness: Distance from the camera as a fraction of that of the point looked at.
        roll: Tilt in the image, in radians.
        radius: In meters.
        swing: Amplitude of the horizontal motion in image widths.
        period: Period of that motion in seconds.
        phase: Phase of that motion in radians.
        color: RGB in [0, 1].
    """

    kind: str
    side: float
    nearness: float
    roll: float
    radius: float
    swing: float
    period: float
    phase: float
    color: Color

    def pose_at(self, camera: CameraTrajectory, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the position [3] in meters and a rotation [3, 3] whose z is the long axis.

        The pose is fixed to the world at time 0, so it moves in the image of a moving camera.
        """
        pose = camera.pose_at(0.0)
        right, up, forward = pose.axes
        width = camera.view_width * self.nearness
        offset = self.side + self.swing * math.sin(2 * math.pi * time / self.period + self.phase)
        middle = pose.position + self.nearness * pose.distance * forward + offset * width * right
        along = math.cos(self.roll) * up + math.sin(self.roll) * right
        across = np.cross(along, forward)
        return middle, np.stack([across, np.cross(along, across), along], axis=1)


def sample_distractors(
    rng: np.random.Generator, width: float, table_edge: float
) -> tuple[Distractor, ...]:
    """Sample up to four distractors, the solid ones near the edge of the image.

    Args:
        rng: The random generator.
        width: Width of the image at the point looked at, in meters.
        table_edge: y of the table's far edge, in meters.
    """
    found: list[Distractor] = []
    for _ in range(int(rng.choice(5, p=[0.3, 0.25, 0.2, 0.15, 0.1]))):
        kind = str(rng.choice(["mat", "plate", "book", "stone", "cone"]))
        half_size, color = _sample_half_size(rng, kind), NEUTRALS[rng.integers(len(NEUTRALS))]
        for _ in range(20):
            x, y = rng.uniform(-0.55, 0.55, 2) * width
            item = Distractor(
                kind, (float(x), float(y)), float(rng.uniform(0, math.pi)), half_size, color
            )
            inside = max(abs(x), abs(y)) < 0.3 * width
            if y + item.radius > table_edge or (inside if item.is_solid else not inside):
                continue
            if all(
                math.dist(item.position, o.position) > item.radius + o.radius + 0.02 for o in found
            ):
                found.append(item)
                break
    return tuple(found)


def sample_occluder(rng: np.random.Generator) -> Occluder | None:
    """Sample an occluder with probability 1/4."""
    if rng.random() > 0.25:
        return None
    nearness = float(rng.uniform(0.35, 0.55))
    swings = rng.random() < 0.5
    return Occluder(
        kind=str(rng.choice(["pole", "arm"])),
        side=float(rng.uniform(-0.4, 0.4)),
        nearness=nearness,
        roll=float(rng.uniform(-0.45, 0.45)),
        radius=float(rng.uniform(0.02, 0.045)) * nearness,
        swing=float(rng.uniform(0.03, 0.15)) if swings else 0.0,
        period=float(rng.uniform(3, 8)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        color=NEUTRALS[rng.integers(len(NEUTRALS))],
    )


def _sample_half_size(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    if kind == "mat":
        sides = [*rng.uniform(0.08, 0.2, 2), MAT_TOP / 2]
    elif kind == "plate":
        radius = rng.uniform(0.05, 0.09)
        sides = [radius, radius, rng.uniform(0.003, 0.006)]
    elif kind == "book":
        sides = [rng.uniform(0.04, 0.06), rng.uniform(0.07, 0.1), rng.uniform(0.006, 0.015)]
    elif kind == "stone":
        sides = [*rng.uniform(0.03, 0.07, 2), rng.uniform(0.012, 0.025)]
    else:
        sides = [CONE[0], CONE[0], CONE[1] / 2]
    x, y, z = (float(v) for v in sides)
    return x, y, z
