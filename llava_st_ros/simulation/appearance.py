"""The appearance of a scene: surfaces, materials and light, and the texture pixels for MuJoCo."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.headless import mujoco
from llava_st_ros.simulation.textures import PHOTOS, object_texture, surface
from llava_st_ros.simulation.worlds import Variety, World, sample

Color = tuple[float, float, float]
COLORS: dict[str, Color] = {
    "red": (0.85, 0.06, 0.06),
    "green": (0.08, 0.55, 0.12),
    "blue": (0.08, 0.18, 0.85),
    "yellow": (0.95, 0.85, 0.08),
    "purple": (0.42, 0.10, 0.58),
    "orange": (1.00, 0.42, 0.02),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (1.00, 0.50, 0.70),
}
SURFACES = {"table": 256, "floor": 128, "wall": 256}  # texture sizes in pixels
OBJECT_TEXTURES = ("flat", "wood", "speckle", "stripes", "noise")  # one cube texture each
OBJECT_TEXTURE_SIZE = 64
TABLE_TINTS: tuple[Color, ...] = (
    (0.62, 0.47, 0.33),
    (0.45, 0.32, 0.22),
    (0.75, 0.70, 0.62),
    (0.55, 0.55, 0.55),
    (0.30, 0.30, 0.32),
    (0.80, 0.80, 0.80),
    (0.40, 0.45, 0.48),
    (0.52, 0.50, 0.42),
)


@dataclass(frozen=True)
class Surface:
    """A tinted texture of ``textures``.

    Attributes:
        name: Name of the texture.
        tint: RGB in [0, 1].
        contrast: 0 for the tint alone.
        per_meter: Repetitions per meter.
    """

    name: str
    tint: Color
    contrast: float
    per_meter: float

    def pixels(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Return the texture, uint8 [size, size, 3]."""
        light = 1 + self.contrast * (2 * surface(self.name, rng, size) - 1)
        return np.clip(255 * np.array(self.tint) * light, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Material:
    """The material of an object."""

    texture: str
    specular: float
    shininess: float


MATERIALS: dict[str, Material] = {
    "matte": Material("flat", 0.0, 0.1),
    "glossy": Material("flat", 0.5, 0.5),
    "metal": Material("noise", 0.8, 0.3),
    "wooden": Material("wood", 0.1, 0.2),
    "speckled": Material("speckle", 0.1, 0.3),
    "striped": Material("stripes", 0.15, 0.4),
}


@dataclass(frozen=True)
class Light:
    """A directional light.

    Attributes:
        color: RGB.
        direction: x, y, z.
    """

    color: Color
    direction: Color


_DARKEST = {"flat": 1.0, "wood": 0.7, "speckle": 0.7, "stripes": 0.65, "noise": 0.75}


@dataclass(frozen=True)
class Appearance:
    """Surfaces, materials and light of a scene.

    Attributes:
        table: Surface of the table.
        floor: Surface of the floor.
        wall: Surface of the wall.
        materials: Names in ``MATERIALS``, one per object.
        shades: RGB of each object.
        ambient: RGB of the headlight's ambient light.
        headlight: Diffuse brightness of the headlight.
        lights: The directional lights. The first one casts shadows.
        shadow: Darkness of the shadows in [0, 1].
        seed: Seed of the texture pixels.
    """

    table: Surface
    floor: Surface
    wall: Surface
    materials: tuple[str, ...]
    shades: tuple[Color, ...]
    ambient: Color
    headlight: float
    lights: tuple[Light, ...]
    seed: int  # of the pixels
    shadow: float = 0.35


def sample_appearance(rng: np.random.Generator, world: World, colors: Sequence[str]) -> Appearance:
    """Sample the appearance of a scene with objects of these colors."""
    names = list(MATERIALS)
    weights = np.array([0.36, 0.2, 0.1, 0.12, 0.11, 0.11])
    angle, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.9)
    ambient, light = rng.uniform(0.36, 0.52), rng.uniform(0.28, 0.5)
    warmth = rng.uniform(-0.08, 0.08)  # color of the light; the ambient light is closer to white
    tone = np.array([1 + warmth, 1.0, 1 - warmth])
    appearance = Appearance(
        table=_surface(rng, _table_name(rng, world), _table_tint(rng)),
        floor=_surface(rng, str(rng.choice(world.backdrops)), _gray(rng, 0.15, 0.6)),
        wall=_surface(rng, str(rng.choice(world.backdrops)), _gray(rng, 0.25, 0.8), 0.35),
        materials=tuple(str(rng.choice(names, p=weights)) for _ in colors),
        shades=tuple(COLORS[color] for color in colors),
        ambient=_color(ambient * (1 + tone) / 2),
        headlight=float(rng.uniform(0.25, 0.38)),
        lights=(Light(_color(light * tone), _direction(angle, tilt)),),
        seed=int(rng.integers(2**31)),
    )
    return appearance if world.variety is None else _varied(rng, appearance, world.variety)


def _varied(rng: np.random.Generator, appearance: Appearance, variety: Variety) -> Appearance:
    """Return other shades and other light: up to three colored lights, or ambient light only."""
    share, total = sample(rng, variety.ambient), float(rng.uniform(1.0, 1.25))
    count = int(rng.integers(4)) if share < 1 else 0  # directional lights; the rest is headlight
    strengths = rng.dirichlet(np.full(count + 1, 1.5)) * total * (1 - share)
    tint = rng.uniform(0.85, 1.15, (count + 1, 3))
    lights = tuple(
        Light(
            _color(strength * color),
            _direction(float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 1.8))),
        )
        for strength, color in zip(strengths[1:], tint[1:])
    )
    return replace(
        appearance,
        shades=tuple(_shade(rng, shade, variety) for shade in appearance.shades),
        ambient=_color(total * share * tint[0]),
        headlight=float(strengths[0]),
        lights=lights,
        shadow=float(rng.uniform(0.0, 0.55)),
    )


def _shade(rng: np.random.Generator, color: Color, variety: Variety) -> Color:
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    return colorsys.hsv_to_rgb(
        (hue + sample(rng, variety.hue) / 360) % 1,
        min(1.0, saturation * sample(rng, variety.saturation)),
        min(1.0, value * sample(rng, variety.value)),
    )


def _direction(angle: float, tilt: float) -> Color:
    return tilt * math.cos(angle), tilt * math.sin(angle), -1.0


def fill_textures(model: mujoco.MjModel, appearance: Appearance) -> None:
    """Write the texture pixels into ``model``."""
    rng = np.random.default_rng(appearance.seed)
    for name, size in SURFACES.items():
        pixels: np.ndarray = getattr(appearance, name).pixels(rng, size)
        _write(model, name, pixels)
    for name in OBJECT_TEXTURES:
        darkest = _DARKEST[name]
        light = darkest + (1 - darkest) * object_texture(name, rng, OBJECT_TEXTURE_SIZE)
        if name == "flat":
            light = np.ones_like(light)
        face = np.repeat((255 * light)[:, :, None], 3, axis=2).astype(np.uint8)
        _write(model, f"object-{name}", np.concatenate([face] * 6))


def _write(model: mujoco.MjModel, name: str, pixels: np.ndarray) -> None:
    texture = model.texture(name).id
    start = int(model.tex_adr[texture])
    model.tex_data[start : start + pixels.size] = pixels.ravel()


def _table_name(rng: np.random.Generator, world: World) -> str:
    """Sample a table texture: a plain one with probability 0.4 if the world has any."""
    plain = [name for name in world.tables if name in ("flat", "gradient", "checker")]
    others = [name for name in world.tables if name not in plain]
    return str(rng.choice(plain if plain and rng.random() < 0.4 else others))


def _table_tint(rng: np.random.Generator) -> Color:
    return _color(np.array(TABLE_TINTS[rng.integers(len(TABLE_TINTS))]) + rng.uniform(-0.06, 0.06))


def _gray(rng: np.random.Generator, low: float, high: float) -> Color:
    return _color(np.full(3, rng.uniform(low, high)) + rng.uniform(-0.06, 0.06, 3))


def _surface(
    rng: np.random.Generator, name: str, tint: Color, per_meter: float | None = None
) -> Surface:
    contrast = rng.uniform(0.35, 0.9) if name in PHOTOS else rng.uniform(0.2, 0.7)
    repeated = per_meter or rng.uniform(0.7, 2.0)
    return Surface(name, tint, float(contrast), float(repeated))


def _color(values: np.ndarray) -> Color:
    red, green, blue = (float(v) for v in np.clip(values, 0, 1))
    return red, green, blue
