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
    """What may occur in a clip.

    ``excluded`` objects never stand on the table, and where there are ``wanted`` ones, one of
    them is the subject of an event. ``tables`` and ``backdrops`` name surfaces of ``textures``;
    ``fovy`` are the least and the greatest angle of the lens in degrees.
    """

    excluded: frozenset[Combination]
    required: frozenset[Combination]
    tables: tuple[str, ...]
    backdrops: tuple[str, ...]
    fovy: tuple[float, float]


_SEEN = World(
    excluded=HELD_OUT,
    required=frozenset(),
    tables=(
        *("flat", "checker", "gradient", "wood", "marble", "noise", "stripes", "speckle"),
        *("brick", "grass", "coffee"),
    ),
    backdrops=(
        *("flat", "gradient", "noise", "wood", "stripes"),
        *("brick", "grass", "coffee", "rocket", "astronaut", "camera"),
    ),
    fovy=(34.0, 48.0),
)
_OF_SPLIT = {
    "unseen_objects": replace(_SEEN, excluded=frozenset(), required=HELD_OUT),
    "unseen_table": replace(_SEEN, tables=("gravel", "weave"), backdrops=("chelsea", "hubble")),
    "unseen_lens": replace(_SEEN, fovy=(58.0, 70.0)),
}


def world_for_seed(seed: int) -> World:
    """The world of the split whose range holds ``seed``; that of training for any other."""
    for split, seeds in SPLITS.items():
        if seed in seeds:
            return _OF_SPLIT.get(split, _SEEN)
    return _SEEN
