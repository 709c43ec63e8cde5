"""Where objects are among the others of a picture: "the ball left of the blue box".

Left and right are the picture's. A word of place is used only where it is plainly true: by
``MARGIN`` of the picture's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llava_st_ros.simulation.descriptions import (
    Description,
    descriptions,
    distinguishing_descriptions,
    sample_description,
)
from llava_st_ros.simulation.scenes import SimulatedObject

MARGIN = 0.05
ORDINALS = ("first", "second", "third", "fourth", "fifth")
_NEXT_TO = 0.6  # the nearest is "next to" if the second nearest is this much farther away


@dataclass(frozen=True)
class VisibleObjects:
    """The objects seen in a picture: ``indices`` of n objects, ``centers`` f32 [n, 2] in [0, 1]."""

    objects: tuple[SimulatedObject, ...]
    indices: tuple[int, ...]
    centers: np.ndarray

    @classmethod
    def of(cls, objects: Sequence[SimulatedObject], boxes: np.ndarray) -> VisibleObjects:
        """From boxes f32 [objects, 4], NaN for what is not seen."""
        seen = np.flatnonzero(~np.isnan(boxes[:, 0]))
        centers = (boxes[seen, :2] + boxes[seen, 2:]) / 2
        return cls(tuple(objects), tuple(int(i) for i in seen), centers)

    def center(self, index: int) -> np.ndarray:
        return self.centers[self.indices.index(index)]

    def others(self, index: int) -> list[SimulatedObject]:
        """Every other object that is seen."""
        return [self.objects[i] for i in self.indices if i != index]

    def fitting(self, description: Description) -> list[int]:
        """Indices of the objects seen that a description fits."""
        return [i for i in self.indices if description.matches(self.objects[i])]


def placed(index: int, scenery: VisibleObjects, rng: np.random.Generator) -> list[str]:
    """Ways to say which object is meant by where it is, without "the"; none where place does not
    tell it from those that look alike."""
    item = scenery.objects[index]
    # Where words tell it apart, place is said now and then all the same.
    ambiguous = [d for d in descriptions(item) if len(scenery.fitting(d)) > 1]
    description = sample_description(rng, ambiguous or descriptions(item))
    alike = scenery.fitting(description)
    words = description.words(rng)
    return [
        *_in_a_row(index, alike, scenery, words),
        *_beside_another(index, alike, scenery, words, rng),
    ]


def _in_a_row(index: int, alike: list[int], scenery: VisibleObjects, words: str) -> list[str]:
    """By the order from left to right of those that look alike."""
    if len(alike) < 2:
        return []
    row = sorted(alike, key=lambda i: float(scenery.center(i)[0]))
    across = [float(scenery.center(i)[0]) for i in row]
    place = row.index(index)
    gaps = [b - a for a, b in pairwise(across)]
    ways = []
    if place == 0 and gaps[0] > MARGIN:
        ways += [f"leftmost {words}", f"{words} farthest to the left"]
    if place == len(row) - 1 and gaps[-1] > MARGIN:
        ways += [f"rightmost {words}", f"{words} farthest to the right"]
    if len(row) == 2 and gaps[0] > MARGIN:
        ways.append(f"{words} on the {'left' if place == 0 else 'right'}")
    if len(row) > 2 and min(gaps) > MARGIN:
        if place < len(ORDINALS):
            ways.append(f"{ORDINALS[place]} {words} from the left")
        if len(row) - 1 - place < len(ORDINALS):
            ways.append(f"{ORDINALS[len(row) - 1 - place]} {words} from the right")
    return ways


def _beside_another(
    index: int, alike: list[int], scenery: VisibleObjects, words: str, rng: np.random.Generator
) -> list[str]:
    """By another object that is called by what tells it from all others."""
    marks = [i for i in scenery.indices if i not in alike]
    if not marks:
        return []
    mark = int(rng.choice(marks))
    known = distinguishing_descriptions(scenery.objects[mark], scenery.others(mark))
    if not known:
        return []
    there = scenery.center(mark)
    called = sample_description(rng, known).words(rng)
    rivals = [i for i in alike if i != index]
    side = float(scenery.center(index)[0] - there[0])
    ways = []
    for way, sign in (("left of", -1), ("right of", 1)):
        beyond = [sign * float(scenery.center(i)[0] - there[0]) for i in rivals]
        if sign * side > MARGIN and all(b < -MARGIN / 2 for b in beyond):
            ways.append(f"{words} {way} the {called}")
    far = [float(np.linalg.norm(scenery.center(i) - there)) for i in rivals]
    near = float(np.linalg.norm(scenery.center(index) - there))
    if far and near < _NEXT_TO * min(far):
        ways.append(f"{words} next to the {called}")
    return ways
