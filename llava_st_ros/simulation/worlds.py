"""Worlds: the distributions that clips are sampled from. The seed's split selects the world.

The training, validation and test splits share one world. Each of the other splits differs from it
in one respect, to measure generalization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SPLITS: dict[str, range] = {
    "train": range(100_000_000),
    "validation": range(100_000_000, 110_000_000),
    "test": range(200_000_000, 210_000_000),
    "unseen_objects": range(300_000_000, 310_000_000),
    "unseen_table": range(310_000_000, 320_000_000),
    "unseen_lens": range(320_000_000, 330_000_000),
}
Combination = tuple[str, str]  # color, shape
HELD_OUT: frozenset[Combination] = frozenset(
    {("purple", "ball"), ("cyan", "box"), ("orange", "cylinder"), ("green", "capsule")}
)


@dataclass(frozen=True)
class World:
    """The distribution that clips are sampled from.

    Attributes:
        excluded: Combinations of color and shape that never occur.
        required: One of these combinations is the subject of an event; no constraint if empty.
        tables: Names of table textures.
        backdrops: Names of floor and wall textures.
        fovy: Minimum and maximum field of view of the camera in degrees.
    """

    excluded: frozenset[Combination]
    required: frozenset[Combination]
    tables: tuple[str, ...]
    backdrops: tuple[str, ...]
    fovy: tuple[float, float]


_TABLE_PATTERNS = ("wood", "marble", "noise", "stripes", "speckle")
_COMMON_PHOTOS, _WALL_PHOTOS = ("brick", "grass", "coffee"), ("rocket", "astronaut", "camera")
_TRAINING_WORLD = World(
    excluded=HELD_OUT,
    required=frozenset(),
    tables=("flat", "checker", "gradient", *_TABLE_PATTERNS, *_COMMON_PHOTOS),
    backdrops=("flat", "gradient", "noise", "wood", "stripes", *_COMMON_PHOTOS, *_WALL_PHOTOS),
    fovy=(34.0, 48.0),
)
_WORLDS = {
    "unseen_objects": replace(_TRAINING_WORLD, excluded=frozenset(), required=HELD_OUT),
    "unseen_table": replace(
        _TRAINING_WORLD, tables=("gravel", "weave"), backdrops=("chelsea", "hubble")
    ),
    "unseen_lens": replace(_TRAINING_WORLD, fovy=(58.0, 70.0)),
}


def world_for_seed(seed: int) -> World:
    """Return the world of the split that ``seed`` belongs to, by default the training world."""
    for split, seeds in SPLITS.items():
        if seed in seeds:
            return _WORLDS.get(split, _TRAINING_WORLD)
    return _TRAINING_WORLD
