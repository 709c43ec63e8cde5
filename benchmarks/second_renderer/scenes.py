"""Scenes of the second renderer: objects, camera, light and surfaces, sampled from a generator.

The ranges are wider than those of the simulator's home world, and of another kind: linear light,
cameras from nearly horizontal to top-down and from tele to wide angle, all azimuths, objects of
many proportions, other shades of the named colors.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.second_renderer.camera import MovingCamera
from benchmarks.second_renderer.rendering import Ground, Light, Look, Paint
from benchmarks.second_renderer.shapes import Shape
from llava_st_ros.simulation.scenes import SHAPES, SimulatedObject
from llava_st_ros.simulation.worlds import HELD_OUT

# Hue in degrees, saturation and value that a person calls by the name.
SHADES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-6, 5), (0.82, 1.0), (0.62, 0.92)),
    "green": ((100, 148), (0.6, 1.0), (0.4, 0.75)),
    "blue": ((214, 236), (0.72, 1.0), (0.55, 0.95)),
    "yellow": ((49, 59), (0.75, 1.0), (0.85, 1.0)),
    "purple": ((270, 288), (0.55, 0.85), (0.5, 0.8)),
    "orange": ((20, 31), (0.85, 1.0), (0.9, 1.0)),
    "cyan": ((176, 189), (0.55, 1.0), (0.75, 0.98)),
    "pink": ((326, 345), (0.35, 0.5), (0.95, 1.0)),
}
HALF_SIDES = {"small": (0.024, 0.038), "large": (0.056, 0.085)}  # of a cube of like volume, m
_COUNTS = (0.08, 0.16, 0.22, 0.22, 0.16, 0.1, 0.06)  # shares of 1 to 7 objects
_SAME_NAME_SHARE = 0.25  # of scenes of three or more objects
# Least and greatest elevation in degrees, field of view in degrees; alternatives.
ELEVATIONS = ((9, 20), (20, 40), (40, 62), (62, 88))
LENSES = ((13, 28), (28, 55), (55, 78), (78, 98))
_NEUTRAL = ((0.0, 0.2), (0.25, 0.78))  # saturation and value of grounds


@dataclass(frozen=True)
class Scene:
    """What does not change during a clip.

    Attributes:
        objects: What questions are about.
        shapes: Of the objects.
        look: Surfaces and light.
        camera: The camera.
        width: Of the part of the ground that is seen, in meters.
        noise: Standard deviation of the sensor's noise, of 255.
    """

    objects: tuple[SimulatedObject, ...]
    shapes: tuple[Shape, ...]
    look: Look
    camera: MovingCamera
    width: float
    noise: float

    @property
    def is_seen_from_above(self) -> bool:
        """Whether the camera is too high above for heights to be seen."""
        return self.camera.orbit[1] > math.radians(70)


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Sample a scene.

    Args:
        rng: The random generator.
        count: Number of objects; None samples it.
    """
    if count is None:
        count = 1 + int(rng.choice(len(_COUNTS), p=_COUNTS))
    objects = _sample_objects(rng, count)
    width = (0.42 + 0.05 * count) * float(rng.uniform(0.8, 1.3))
    return Scene(
        objects,
        tuple(Shape.of(item) for item in objects),
        _sample_look(rng, objects),
        _sample_camera(rng, width),
        width,
        float(rng.choice([0.0, 0.0, 2.0, 4.0])),
    )


def _sample_objects(rng: np.random.Generator, count: int) -> tuple[SimulatedObject, ...]:
    objects: list[SimulatedObject] = []
    while len(objects) < count:
        color, shape = str(rng.choice(list(SHADES))), str(rng.choice(SHAPES))
        if objects and rng.random() < 0.5:
            other = objects[int(rng.integers(len(objects)))]
            color, shape = (other.color, shape) if rng.random() < 0.5 else (color, other.shape)
        if (color, shape) not in HELD_OUT and all(o.name != f"{color} {shape}" for o in objects):
            objects.append(_sample_object(rng, color, shape))
    if count >= 3 and rng.random() < _SAME_NAME_SHARE:
        objects[-1] = _sample_object(rng, objects[0].color, objects[0].shape)
    return tuple(objects[i] for i in rng.permutation(count))


def _sample_object(rng: np.random.Generator, color: str, shape: str) -> SimulatedObject:
    size = str(rng.choice(list(HALF_SIDES)))
    x, y, z = np.exp(rng.uniform(-0.5, 0.5, 3))
    if shape == "ball":
        x = y = z = 1.0
    if shape in ("cylinder", "capsule"):
        y = x
    if shape == "box" and rng.random() < 0.25:
        x = y = z = 1.0
    unit = (x * y * z) ** (1 / 3)
    proportions = (float(x / unit), float(y / unit), float(z / unit))
    return SimulatedObject(color, shape, size, float(rng.uniform(*HALF_SIDES[size])), proportions)


def _sample_camera(rng: np.random.Generator, width: float) -> MovingCamera:
    low, high = ELEVATIONS[int(rng.integers(len(ELEVATIONS)))]
    elevation = math.radians(rng.uniform(low, high))
    low, high = LENSES[int(rng.integers(len(LENSES)))]
    focal = 1 / math.tan(math.radians(rng.uniform(low, high)) / 2)
    aspect = float(np.exp(rng.uniform(-0.3, 0.5))) if rng.random() < 0.3 else 1.0
    distance = max(focal * width / 2, 0.3)
    sway = (0.0, 0.0, 0.0)
    if rng.random() < 0.35:
        sway = tuple(rng.uniform(-1, 1, 3) * [0.12, 0.05, 0.06 * distance])
    return MovingCamera(
        np.array([0.0, 0.0, float(rng.uniform(0.0, 0.06))]),
        (float(rng.uniform(0, 2 * math.pi)), elevation, distance),
        sway,
        float(rng.uniform(9, 25)),
        math.radians(rng.normal(0, 2.5)),
        (focal, focal * aspect),
    )


def _sample_look(rng: np.random.Generator, objects: Sequence[SimulatedObject]) -> Look:
    kind = rng.random()
    lights: list[Light] = []
    ambient = float(rng.uniform(0.85, 1.05))
    if kind > 0.15:  # else ambient light only
        ambient = float(rng.uniform(0.28, 0.6))
        count = 1 if kind < 0.55 else 2 if kind < 0.85 else 3
        for _ in range(count):
            height = float(rng.uniform(0.45, 0.95))
            turn = float(rng.uniform(0, 2 * math.pi))
            side = math.sqrt(1 - height**2)
            direction = np.array([side * math.cos(turn), side * math.sin(turn), height])
            lights.append(Light(direction, (1.35 - ambient) / count**0.7 * _tint(rng, 0.22)))
    return Look(
        tuple(_sample_paint(rng, item) for item in objects),
        _sample_ground(rng),
        ambient * _tint(rng, 0.08),
        tuple(lights),
        float(rng.uniform(0.9, 1.4)),
    )


def _tint(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """Return a light's color of brightness 1, warm or cool."""
    hue = float(rng.choice([35, 210])) + float(rng.uniform(-20, 20))
    color = np.array(colorsys.hsv_to_rgb(hue / 360, float(rng.uniform(0, saturation)), 1.0))
    return color / color.mean()


def _sample_paint(rng: np.random.Generator, item: SimulatedObject) -> Paint:
    hue, saturation, value = (float(rng.uniform(*limits)) for limits in SHADES[item.color])
    striped = rng.random() < 0.3
    glossy = rng.random() < 0.5
    most = 0.5 if item.shape in ("ball", "capsule") else 0.2  # all of a flat face may shine
    return Paint(
        colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value),
        float(rng.uniform(0.55, 0.75)) if striped else 1.0,
        item.scale * float(rng.uniform(0.4, 0.8)),
        float(rng.uniform(0.1, most)) if glossy else 0.0,
        float(rng.uniform(8, 60)),
    )


def _sample_ground(rng: np.random.Generator) -> Ground:
    hue, saturation = float(rng.uniform(0, 1)), float(rng.uniform(*_NEUTRAL[0]))
    value = float(rng.uniform(*_NEUTRAL[1]))
    other = float(np.clip(value * np.exp(rng.choice([-1, 1]) * rng.uniform(0.12, 0.5)), 0.18, 0.85))
    sky_value = float(rng.uniform(0.3, 0.95))
    return Ground(
        str(rng.choice(["plain", "checker", "planks", "patches"])),
        (
            colorsys.hsv_to_rgb(hue, saturation, value),
            colorsys.hsv_to_rgb(hue, saturation, other),
        ),
        float(rng.uniform(0.03, 0.16)),
        float(rng.uniform(0, 2 * math.pi)),
        int(rng.integers(1 << 20)),
        colorsys.hsv_to_rgb(float(rng.uniform(0.5, 0.7)), float(rng.uniform(0, 0.25)), sky_value),
    )
