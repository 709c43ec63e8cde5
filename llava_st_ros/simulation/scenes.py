"""Scenes: objects, appearance, camera and clutter, all sampled.

Lengths are in meters and angles in degrees; z = 0 is the table top, and the camera looks roughly
along +y.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.appearance import Appearance, sample_appearance
from llava_st_ros.simulation.camera import CameraTrajectory, sample_camera
from llava_st_ros.simulation.clutter import (
    Distractor,
    Occluder,
    sample_distractors,
    sample_occluder,
)
from llava_st_ros.simulation.sensor_effects import SensorEffects, sample_sensor_effects
from llava_st_ros.simulation.worlds import World

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.06, 0.06),
    "green": (0.08, 0.55, 0.12),
    "blue": (0.08, 0.18, 0.85),
    "yellow": (0.95, 0.85, 0.08),
    "purple": (0.42, 0.10, 0.58),
    "orange": (1.00, 0.42, 0.02),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (1.00, 0.50, 0.70),
}
SHAPES = ("ball", "box", "cylinder", "capsule")
SIZES: dict[str, tuple[float, float]] = {"small": (0.044, 0.050), "large": (0.070, 0.077)}
TIMESTEP = 0.004  # s
GRAVITY = 9.81
_CLEAN = 0.34  # share of scenes without sensor effects and shake
_SAME_NAME_SHARE = 0.36  # share of scenes of three or more objects


@dataclass(frozen=True)
class SimulatedObject:
    """An object on the table.

    Attributes:
        color: A key of ``COLORS``.
        shape: One of ``SHAPES``.
        size: A key of ``SIZES``.
        scale: Half size in meters.
    """

    color: str
    shape: str
    size: str
    scale: float

    @property
    def name(self) -> str:
        """Color and shape, for example "red ball". Objects of a clip may share a name."""
        return f"{self.color} {self.shape}"

    @property
    def full_name(self) -> str:
        """Size, color and shape, for example "small red ball"."""
        return f"{self.size} {self.name}"

    @property
    def geom_size(self) -> tuple[float, ...]:
        """MuJoCo's ``size`` of the geom."""
        s = self.scale
        if self.shape == "box":
            return (0.9 * s, 0.9 * s, 0.9 * s)
        if self.shape == "cylinder":
            return (0.8 * s, 1.0 * s)
        if self.shape == "capsule":
            return (0.62 * s, 0.75 * s)
        return (s,)

    @property
    def rest_height(self) -> float:
        """The height of the center above the table at rest, in meters."""
        return {"box": 0.9, "cylinder": 1.0, "capsule": 0.62, "ball": 1.0}[self.shape] * self.scale

    @property
    def radius(self) -> float:
        """The radius of the upright bounding cylinder for any yaw, in meters."""
        return {"box": 1.27, "cylinder": 0.85, "capsule": 1.37, "ball": 1.0}[
            self.shape
        ] * self.scale


@dataclass(frozen=True)
class Scene:
    """Everything about a clip that does not change with time.

    Attributes:
        objects: The objects that questions are about.
        camera: The camera.
        appearance: Surfaces, materials and light.
        table_edge: y of the table's far edge, in meters.
        wall: y of the wall behind the table, in meters.
        distractors: Static things on the table.
        occluder: A thing between camera and table.
        sensor_effects: Exposure, noise and blur of the camera.
    """

    objects: tuple[SimulatedObject, ...]
    camera: CameraTrajectory
    appearance: Appearance
    table_edge: float
    wall: float
    distractors: tuple[Distractor, ...]
    occluder: Occluder | None
    sensor_effects: SensorEffects


def sample_scene(
    rng: np.random.Generator, num_objects: int, world: World, *, same_name: bool = True
) -> Scene:
    """Sample a scene.

    Args:
        rng: The random generator.
        num_objects: Number of objects.
        world: The distribution to sample from.
        same_name: Whether two objects may share a name; in scenes of three or more, some then do.
    """
    objects = sample_objects(rng, num_objects, world, same_name=same_name)
    clean = rng.random() < _CLEAN
    width = (0.6 + 0.036 * num_objects) * rng.uniform(0.94, 1.08)
    camera = sample_camera(rng, world.fovy, float(width), can_shake=not clean)
    table_edge = float(rng.uniform(0.62, 1.3) * width)
    sensor_effects = SensorEffects() if clean else sample_sensor_effects(rng)
    return Scene(
        objects=objects,
        camera=camera,
        appearance=sample_appearance(rng, world, num_objects),
        table_edge=table_edge,
        wall=table_edge + float(rng.uniform(0.5, 2.5)),
        distractors=sample_distractors(rng, camera.view_width, table_edge),
        occluder=sample_occluder(rng),
        sensor_effects=sensor_effects,
    )


def sample_objects(
    rng: np.random.Generator, count: int, world: World, *, same_name: bool = True
) -> tuple[SimulatedObject, ...]:
    """Sample objects, which often share a color or a shape.

    One of them is among ``world.required``, if there are any. See ``sample_scene``.
    """
    objects: list[SimulatedObject] = []
    if world.required:
        required = sorted(world.required)
        objects.append(_object(rng, count, *required[rng.integers(len(required))]))
    while len(objects) < count:
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        alike = rng.random()
        if objects and alike < 0.5:
            model = objects[rng.integers(len(objects))]
            color, shape = (model.color, shape) if alike < 0.25 else (color, model.shape)
        rollouts = {(o.color, o.shape) for o in objects} | world.excluded
        if (color, shape) not in rollouts:
            objects.append(_object(rng, count, color, shape))
    if same_name and count >= 3 and rng.random() < _SAME_NAME_SHARE:
        model, others = objects[0], [size for size in SIZES if size != objects[0].size]
        size = model.size if rng.random() < 0.4 else str(rng.choice(others))
        scale = float(rng.uniform(*SIZES[size]))
        objects[-1] = replace(model, size=size, scale=scale)
    order = rng.permutation(count)
    return tuple(objects[i] for i in order)


def _object(rng: np.random.Generator, count: int, color: str, shape: str) -> SimulatedObject:
    """Sample the size of an object; in scenes of six or more, most are small."""
    size = str(rng.choice(["small", "large"], p=[0.5, 0.5] if count < 6 else [0.65, 0.35]))
    return SimulatedObject(color, shape, size, float(rng.uniform(*SIZES[size])))
