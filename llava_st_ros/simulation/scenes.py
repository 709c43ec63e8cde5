"""Scenes: objects, appearance, camera and clutter, all sampled.

Lengths are in meters and angles in degrees; z = 0 is the table top, and the camera looks roughly
along +y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.appearance import COLORS, Appearance, sample_appearance
from llava_st_ros.simulation.camera import CameraTrajectory, sample_camera
from llava_st_ros.simulation.clutter import (
    Distractor,
    Occluder,
    sample_distractors,
    sample_occluder,
)
from llava_st_ros.simulation.sensor_effects import (
    SensorEffects,
    sample_sensor_effects,
    with_response,
)
from llava_st_ros.simulation.worlds import Variety, World, sample

__all__ = [
    "COLORS",
    "GRAVITY",
    "SHAPES",
    "SIZES",
    "TIMESTEP",
    "Scene",
    "SimulatedObject",
    "sample_objects",
    "sample_scene",
]

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
        proportions: Factors of the extents in x, y and z of the object's own axes. A ball has equal
            ones, a cylinder and a capsule have equal x and y; z is their long axis.
    """

    color: str
    shape: str
    size: str
    scale: float
    proportions: tuple[float, float, float] = (1.0, 1.0, 1.0)

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
        s, (x, y, z) = self.scale, self.proportions
        if self.shape == "box":
            return (0.9 * s * x, 0.9 * s * y, 0.9 * s * z)
        if self.shape == "cylinder":
            return (0.8 * s * x, 1.0 * s * z)
        if self.shape == "capsule":
            return (0.62 * s * x, 0.75 * s * z)
        return (s * x,)

    @property
    def rest_height(self) -> float:
        """The height of the center above the table at rest, in meters."""
        x, _, z = self.proportions
        heights = {"box": 0.9 * z, "cylinder": 1.0 * z, "capsule": 0.62 * x, "ball": 1.0 * x}
        return heights[self.shape] * self.scale

    @property
    def radius(self) -> float:
        """The radius of the upright bounding cylinder for any yaw, in meters."""
        x, y, z = self.proportions
        radii = {
            "box": 1.27 * math.sqrt((x * x + y * y) / 2),
            "cylinder": 0.85 * x,
            "capsule": 0.62 * x + 0.75 * z,
            "ball": 1.0 * x,
        }
        return radii[self.shape] * self.scale

    @property
    def reach(self) -> float:
        """The radius of a sphere around the center for checks of the view, in meters."""
        return (
            self.radius if self.shape == "capsule" else self.radius * max(1.0, self.proportions[2])
        )


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
        variety: The variety of the scene's world, None in the home world.
    """

    objects: tuple[SimulatedObject, ...]
    camera: CameraTrajectory
    appearance: Appearance
    table_edge: float
    wall: float
    distractors: tuple[Distractor, ...]
    occluder: Occluder | None
    sensor_effects: SensorEffects
    variety: Variety | None = None

    @property
    def min_event_frames(self) -> int:
        """The least number of frames from the first to the last one of an event."""
        return 2 if self.variety is None else 1


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
    if world.variety is not None:
        width *= sample(rng, world.variety.view)
    camera = sample_camera(rng, world, float(width), can_shake=not clean)
    table_edge = float(rng.uniform(0.62, 1.3) * width)
    sensor_effects = SensorEffects() if clean else sample_sensor_effects(rng)
    if world.variety is not None:
        sensor_effects = with_response(rng, sensor_effects, world.variety)
    return Scene(
        objects=objects,
        camera=camera,
        appearance=sample_appearance(rng, world, [item.color for item in objects]),
        table_edge=table_edge,
        wall=table_edge + float(rng.uniform(0.5, 2.5)),
        distractors=sample_distractors(rng, camera.view_width, table_edge),
        occluder=sample_occluder(rng),
        sensor_effects=sensor_effects,
        variety=world.variety,
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
        objects.append(_object(rng, count, *required[rng.integers(len(required))], world))
    while len(objects) < count:
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        alike = rng.random()
        if objects and alike < 0.5:
            model = objects[rng.integers(len(objects))]
            color, shape = (model.color, shape) if alike < 0.25 else (color, model.shape)
        rollouts = {(o.color, o.shape) for o in objects} | world.excluded
        if (color, shape) not in rollouts:
            objects.append(_object(rng, count, color, shape, world))
    if same_name and count >= 3 and rng.random() < _SAME_NAME_SHARE:
        model, others = objects[0], [size for size in SIZES if size != objects[0].size]
        size = model.size if rng.random() < 0.4 else str(rng.choice(others))
        objects[-1] = replace(model, size=size, scale=_scale(rng, size, world))
    order = rng.permutation(count)
    return tuple(objects[i] for i in order)


def _object(
    rng: np.random.Generator, count: int, color: str, shape: str, world: World
) -> SimulatedObject:
    """Sample the size of an object; in scenes of six or more, most are small."""
    size = str(rng.choice(["small", "large"], p=[0.5, 0.5] if count < 6 else [0.65, 0.35]))
    item = SimulatedObject(color, shape, size, _scale(rng, size, world))
    if world.variety is None:
        return item
    return replace(item, proportions=_proportions(rng, shape, world.variety))


def _scale(rng: np.random.Generator, size: str, world: World) -> float:
    if world.variety is None:
        return float(rng.uniform(*SIZES[size]))
    return sample(rng, world.variety.small if size == "small" else world.variety.large)


def _proportions(
    rng: np.random.Generator, shape: str, variety: Variety
) -> tuple[float, float, float]:
    """Sample proportions of unit volume, none of which makes an object topple when pushed."""
    x, y, z = (math.exp(sample(rng, variety.proportion)) for _ in range(3))
    if shape == "ball":
        return 1.0, 1.0, 1.0
    if shape != "box":
        y = x
    z = min(z, 1.5 * min(x, y)) if shape != "capsule" else z
    unit = (x * y * z) ** (1 / 3)
    return x / unit, y / unit, z / unit
