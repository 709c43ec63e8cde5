"""Things no question is about: what lies on the table, and what is held before the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llava_st_ros.simulation.appearance import Color
from llava_st_ros.simulation.camera import CameraTrajectory

# Neutral, so that no name of an object fits: grey, white, black, brown.
NEUTRALS: tuple[Color, ...] = (
    (0.45, 0.45, 0.45),
    (0.65, 0.64, 0.62),
    (0.92, 0.92, 0.90),
    (0.08, 0.08, 0.09),
    (0.30, 0.20, 0.13),
    (0.42, 0.31, 0.22),
)
CONE = (0.045, 0.13)  # radius and height of the one cone there is, metres
MAT_TOP = 0.0014  # mats are thin: objects stand on them as if on the table


@dataclass(frozen=True)
class Distractor:
    """A static thing at ``place`` [x, y]; ``half`` are half its sides, its height the third.

    Objects stand on mats and move across them; everything else is in their way.
    """

    kind: str  # "mat", "plate", "book", "stone" or "cone"
    place: tuple[float, float]
    yaw: float
    half: tuple[float, float, float]
    color: Color

    @property
    def is_solid(self) -> bool:
        return self.kind != "mat"

    @property
    def radius(self) -> float:
        """Radius of the upright cylinder that holds it."""
        if self.kind == "book":
            return math.hypot(*self.half[:2])
        return max(self.half[:2])


@dataclass(frozen=True)
class Occluder:
    """A pole or a robot's arm between camera and table, in neutral color.

    ``side`` is where it stands across the picture (-0.5..0.5 of its width), ``nearness`` the share
    of the way from lens to the point looked at, ``roll`` its tilt in the picture (radians), and it
    swings by ``swing`` picture widths in ``period`` seconds.
    """

    kind: str  # "pole" or "arm"
    side: float
    nearness: float
    roll: float
    radius: float
    swing: float
    period: float
    phase: float
    color: Color

    def at(self, camera: CameraTrajectory, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Where its middle is, [3] m, and a rotation [3, 3] whose z runs along it.

        It stands in the world: a moving camera sees it move.
        """
        pose = camera.at(0.0)
        right, up, forward = pose.axes
        width = camera.width * self.nearness
        offset = self.side + self.swing * math.sin(2 * math.pi * time / self.period + self.phase)
        middle = pose.eye + self.nearness * pose.distance * forward + offset * width * right
        along = math.cos(self.roll) * up + math.sin(self.roll) * right
        across = np.cross(along, forward)
        return middle, np.stack([across, np.cross(along, across), along], axis=1)


def sample_distractors(
    rng: np.random.Generator, width: float, table_edge: float
) -> tuple[Distractor, ...]:
    """Up to four; the solid ones lie towards the rim of the ``width`` metres in the picture."""
    found: list[Distractor] = []
    for _ in range(int(rng.choice(5, p=[0.3, 0.25, 0.2, 0.15, 0.1]))):
        kind = str(rng.choice(["mat", "plate", "book", "stone", "cone"]))
        half, color = _half(rng, kind), NEUTRALS[rng.integers(len(NEUTRALS))]
        for _ in range(20):
            x, y = rng.uniform(-0.55, 0.55, 2) * width
            item = Distractor(
                kind, (float(x), float(y)), float(rng.uniform(0, math.pi)), half, color
            )
            inside = max(abs(x), abs(y)) < 0.3 * width
            if y + item.radius > table_edge or (inside if item.is_solid else not inside):
                continue
            if all(math.dist(item.place, o.place) > item.radius + o.radius + 0.02 for o in found):
                found.append(item)
                break
    return tuple(found)


def sample_occluder(rng: np.random.Generator) -> Occluder | None:
    """One in four clips has one."""
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


def _half(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
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
