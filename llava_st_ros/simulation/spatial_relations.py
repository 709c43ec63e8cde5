"""Phrases for objects by their place among the others, such as "the ball left of the blue box".

Left and right are those of the image. A relation is used only where it is unambiguous: where it
holds by at least ``MARGIN``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llava_st_ros.simulation.descriptions import (
    Description,
    all_descriptions,
    distinguishing_descriptions,
    sample_description,
)
from llava_st_ros.simulation.scenes import SimulatedObject

MARGIN = 0.05  # in image widths
ORDINALS = ("first", "second", "third", "fourth", "fifth")
_NEXT_TO = 0.6  # the nearest object is "next to" if its distance is below this share of the second


@dataclass(frozen=True)
class VisibleObjects:
    """The objects that are visible in a frame.

    Attributes:
        objects: All objects of the clip.
        indices: Indices of the n visible ones.
        centers: The centers of their boxes, float32 [n, 2] in [0, 1].
    """

    objects: tuple[SimulatedObject, ...]
    indices: tuple[int, ...]
    centers: np.ndarray

    @classmethod
    def from_boxes(cls, objects: Sequence[SimulatedObject], boxes: np.ndarray) -> VisibleObjects:
        """Select the objects whose box in float32 [objects, 4] is not NaN."""
        visible = np.flatnonzero(~np.isnan(boxes[:, 0]))
        centers = (boxes[visible, :2] + boxes[visible, 2:]) / 2
        return cls(tuple(objects), tuple(int(i) for i in visible), centers)

    def center(self, index: int) -> np.ndarray:
        return self.centers[self.indices.index(index)]

    def other_objects(self, index: int) -> list[SimulatedObject]:
        """Return every other visible object."""
        return [self.objects[i] for i in self.indices if i != index]

    def matching(self, description: Description) -> list[int]:
        """Return the indices of the visible objects that a description matches."""
        return [i for i in self.indices if description.matches(self.objects[i])]


def relational_phrases(index: int, visible: VisibleObjects, rng: np.random.Generator) -> list[str]:
    """Return phrases (without "the") that identify an object by its place.

    The list is empty where the place does not distinguish the object from similar ones.
    """
    item = visible.objects[index]
    # Ambiguous descriptions first, because these need the place.
    ambiguous = [d for d in all_descriptions(item) if len(visible.matching(d)) > 1]
    description = sample_description(rng, ambiguous or all_descriptions(item))
    similar = visible.matching(description)
    words = description.sample_phrase(rng)
    return [
        *_by_order(index, similar, visible, words),
        *_by_landmark(index, similar, visible, words, rng),
    ]


def _by_order(index: int, similar: list[int], visible: VisibleObjects, words: str) -> list[str]:
    """Return phrases by the order of similar objects from left to right."""
    if len(similar) < 2:
        return []
    row = sorted(similar, key=lambda i: float(visible.center(i)[0]))
    across = [float(visible.center(i)[0]) for i in row]
    rank = row.index(index)
    gaps = [b - a for a, b in pairwise(across)]
    phrases = []
    if rank == 0 and gaps[0] > MARGIN:
        phrases += [f"leftmost {words}", f"{words} farthest to the left"]
    if rank == len(row) - 1 and gaps[-1] > MARGIN:
        phrases += [f"rightmost {words}", f"{words} farthest to the right"]
    if len(row) == 2 and gaps[0] > MARGIN:
        phrases.append(f"{words} on the {'left' if rank == 0 else 'right'}")
    if len(row) > 2 and min(gaps) > MARGIN:
        if rank < len(ORDINALS):
            phrases.append(f"{ORDINALS[rank]} {words} from the left")
        if len(row) - 1 - rank < len(ORDINALS):
            phrases.append(f"{ORDINALS[len(row) - 1 - rank]} {words} from the right")
    return phrases


def _by_landmark(
    index: int, similar: list[int], visible: VisibleObjects, words: str, rng: np.random.Generator
) -> list[str]:
    """Return phrases by the relation to another object that has an unambiguous description."""
    landmarks = [i for i in visible.indices if i not in similar]
    if not landmarks:
        return []
    landmark = int(rng.choice(landmarks))
    descriptions = distinguishing_descriptions(
        visible.objects[landmark], visible.other_objects(landmark)
    )
    if not descriptions:
        return []
    center = visible.center(landmark)
    landmark_words = sample_description(rng, descriptions).sample_phrase(rng)
    rivals = [i for i in similar if i != index]
    offset = float(visible.center(index)[0] - center[0])
    phrases = []
    for relation, sign in (("left of", -1), ("right of", 1)):
        beyond = [sign * float(visible.center(i)[0] - center[0]) for i in rivals]
        if sign * offset > MARGIN and all(b < -MARGIN / 2 for b in beyond):
            phrases.append(f"{words} {relation} the {landmark_words}")
    far = [float(np.linalg.norm(visible.center(i) - center)) for i in rivals]
    near = float(np.linalg.norm(visible.center(index) - center))
    if far and near < _NEXT_TO * min(far):
        phrases.append(f"{words} next to the {landmark_words}")
    return phrases
