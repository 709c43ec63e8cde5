"""Worlds: the distributions that clips are sampled from. The seed's split selects the world.

The training, validation and test splits share one world, the home world. The unseen splits differ
from it in one respect each, to measure generalization. The wide world is for training: its ranges
contain those of the home world, which every third of its seeds belongs to. The shifted world lies
outside the ranges of the wide one, except for half of its cameras' elevations and half of its
colors' values; it is for choosing thresholds and checking generalization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SPLITS: dict[str, range] = {
    "train": range(100_000_000),
    "validation": range(100_000_000, 110_000_000),
    "test": range(200_000_000, 210_000_000),
    "unseen_objects": range(300_000_000, 310_000_000),
    "unseen_table": range(310_000_000, 320_000_000),
    "unseen_lens": range(320_000_000, 330_000_000),
    "wide": range(400_000_000, 500_000_000),
    "shifted": range(500_000_000, 510_000_000),
}
Combination = tuple[str, str]  # color, shape
HELD_OUT: frozenset[Combination] = frozenset(
    {("purple", "ball"), ("cyan", "box"), ("orange", "cylinder"), ("green", "capsule")}
)


Range = tuple[float, float]
_HOME_SHARE = 3  # every third seed of the wide split is of the home world


@dataclass(frozen=True)
class Variety:
    """How a world differs from the home world's geometry, light and motions.

    Each attribute is a union of ranges. One of them is chosen, then a value in it, both uniformly.

    Attributes:
        elevation: Of the camera in degrees; -90 looks straight down.
        azimuth: Of the camera in degrees; 90 looks along +y.
        view: Width of the view relative to the home world's.
        aspect: Width of the image by its height. Frames are stored as squares, as the model sees
            them.
        small: Half sizes of small objects in meters.
        large: Half sizes of large objects in meters.
        proportion: Ratio of an object's extents, as natural logarithms of its factors.
        hue: Deviation from a color's hue in degrees.
        saturation: Factor of a color's saturation.
        value: Factor of a color's value (HSV).
        ambient: Share of ambient light in all light.
        exposure: Gain of the camera.
        gamma: Exponent of the camera's response.
        event_seconds: Durations of events, as natural logarithms of seconds.
        bow: Sideways deviation of a path, relative to its length.
    """

    elevation: tuple[Range, ...]
    azimuth: tuple[Range, ...]
    view: tuple[Range, ...]
    aspect: tuple[Range, ...]
    small: tuple[Range, ...]
    large: tuple[Range, ...]
    proportion: tuple[Range, ...]
    hue: tuple[Range, ...]
    saturation: tuple[Range, ...]
    value: tuple[Range, ...]
    ambient: tuple[Range, ...]
    exposure: tuple[Range, ...]
    gamma: tuple[Range, ...]
    event_seconds: tuple[Range, ...]
    bow: tuple[Range, ...]


def sample(rng: np.random.Generator, ranges: tuple[Range, ...]) -> float:
    """Sample a value of a union of ranges."""
    low, high = ranges[int(rng.integers(len(ranges)))]
    return float(rng.uniform(low, high))


@dataclass(frozen=True)
class World:
    """The distribution that clips are sampled from.

    Attributes:
        excluded: Combinations of color and shape that never occur.
        required: One of these combinations is the subject of an event; no constraint if empty.
        tables: Names of table textures.
        backdrops: Names of floor and wall textures.
        fovy: Minimum and maximum field of view of the camera in degrees.
        variety: None for the home world's geometry, light and motions.
    """

    excluded: frozenset[Combination]
    required: frozenset[Combination]
    tables: tuple[str, ...]
    backdrops: tuple[str, ...]
    fovy: tuple[float, float]
    variety: Variety | None = None


_TABLE_PATTERNS = ("wood", "marble", "noise", "stripes", "speckle")
_COMMON_PHOTOS, _WALL_PHOTOS = ("brick", "grass", "coffee"), ("rocket", "astronaut", "camera")
_HOME_WORLD = World(
    excluded=HELD_OUT,
    required=frozenset(),
    tables=("flat", "checker", "gradient", *_TABLE_PATTERNS, *_COMMON_PHOTOS),
    backdrops=("flat", "gradient", "noise", "wood", "stripes", *_COMMON_PHOTOS, *_WALL_PHOTOS),
    fovy=(34.0, 48.0),
)
_WIDE = Variety(
    elevation=((-80.0, -15.0),),
    azimuth=((60.0, 120.0),),
    view=((0.8, 1.5),),
    aspect=((1.0, 1.0), (0.75, 1.8)),
    small=((0.034, 0.052),),
    large=((0.066, 0.09),),
    proportion=((0.0, 0.0), (-0.45, 0.45)),
    hue=((-9.0, 9.0),),
    saturation=((0.6, 1.0),),
    value=((0.72, 1.12),),
    ambient=((0.25, 0.8), (0.8, 1.0)),
    exposure=((0.8, 1.25),),
    gamma=((0.7, 1.35),),
    event_seconds=((-1.0, 1.1),),
    bow=((0.0, 0.0), (-0.3, 0.3)),
)
_SHIFTED = Variety(
    elevation=((-89.0, -80.0), (-15.0, -12.0), (-60.0, -25.0), (-60.0, -25.0)),
    azimuth=((45.0, 60.0), (120.0, 135.0)),
    view=((0.72, 0.8), (1.5, 1.6)),
    aspect=((1.8, 2.1), (0.65, 0.75)),
    small=((0.030, 0.034),),
    large=((0.09, 0.1),),
    proportion=((-0.6, -0.45), (0.45, 0.6)),
    hue=((-11.0, -9.0), (9.0, 11.0)),
    saturation=((0.54, 0.6),),
    value=((0.66, 0.72), (1.0, 1.12)),
    ambient=((0.18, 0.25), (1.0, 1.0)),
    exposure=((0.76, 0.8), (1.25, 1.3)),
    gamma=((0.62, 0.7), (1.35, 1.42)),
    event_seconds=((-1.25, -1.0), (-0.9, 0.5)),
    bow=((-0.4, -0.3), (0.3, 0.4)),
)
_WORLDS = {
    "unseen_objects": replace(_HOME_WORLD, excluded=frozenset(), required=HELD_OUT),
    "unseen_table": replace(
        _HOME_WORLD, tables=("gravel", "weave"), backdrops=("chelsea", "hubble")
    ),
    "unseen_lens": replace(_HOME_WORLD, fovy=(58.0, 70.0)),
    "wide": replace(_HOME_WORLD, fovy=(22.0, 80.0), variety=_WIDE),
    "shifted": replace(
        _HOME_WORLD,
        tables=("gravel", "weave"),
        backdrops=("chelsea", "hubble"),
        fovy=(80.0, 86.0),
        variety=_SHIFTED,
    ),
}


def world_for_seed(seed: int) -> World:
    """Return the world that ``seed`` belongs to, by default the home world."""
    for split, seeds in SPLITS.items():
        if seed in seeds and not (split == "wide" and seed % _HOME_SHARE == 0):
            return _WORLDS.get(split, _HOME_WORLD)
    return _HOME_WORLD
