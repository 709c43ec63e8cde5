"""Descriptions of objects by their attributes, and the words for these, with synonyms.

Questions use every description and every synonym, answers only the first word for each attribute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject

OBJECT = "object"
SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("sphere",),
    "box": ("cube", "block"),
    "cylinder": ("can",),
    "capsule": ("pill",),
    OBJECT: ("thing",),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "small": ("little",),
    "large": ("big",),
}
_FIRST_WORD = 0.7  # probability of the first word rather than a synonym


@dataclass(frozen=True)
class Description:
    """The attributes by which an object is described; None where one is not mentioned."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def matches(self, item: SimulatedObject) -> bool:
        """Whether the object has every attribute that is mentioned."""
        return (
            self.size in (None, item.size)
            and self.color in (None, item.color)
            and self.shape in (None, item.shape)
        )

    def sample_phrase(self, rng: np.random.Generator) -> str:
        """Return a phrase such as "small red ball", "red object" or "little sphere"."""
        mentioned = (self.size, self.color, self.shape or OBJECT)
        return " ".join(choose_synonym(word, rng) for word in mentioned if word)


def choose_synonym(word: str, rng: np.random.Generator) -> str:
    """Return ``word`` or, less often, one of its synonyms."""
    synonyms = SYNONYMS.get(word)
    if synonyms is None or rng.random() < _FIRST_WORD:
        return word
    return synonyms[int(rng.integers(len(synonyms)))]


def by_color_and_shape(item: SimulatedObject) -> Description:
    """Describe an object the way most people would: by color and shape."""
    return Description(color=item.color, shape=item.shape)


def all_descriptions(item: SimulatedObject) -> list[Description]:
    """Return every true description of an object, the one without attributes included."""
    choices = product((item.size, None), (item.color, None), (item.shape, None))
    return [Description(*attributes) for attributes in choices]


def distinguishing_descriptions(
    item: SimulatedObject, others: Iterable[SimulatedObject]
) -> list[Description]:
    """Return the descriptions of an object that match none of ``others``."""
    others = list(others)
    return [d for d in all_descriptions(item) if not any(d.matches(other) for other in others)]


def sample_description(rng: np.random.Generator, choices: list[Description]) -> Description:
    """Sample a description; color and shape together are the most probable."""
    weights = np.array([_weight(d) for d in choices])
    return choices[int(rng.choice(len(choices), p=weights / weights.sum()))]


def _weight(description: Description) -> float:
    if description.color and description.shape:
        return 1.5 if description.size else 4.0
    return 1.0 if description.shape or description.color else 0.4


def vocabulary() -> list[str]:
    """Return every word for an attribute or an object, synonyms included."""
    words = (*COLORS, *SHAPES, *SIZES, OBJECT)
    return [choice for word in words for choice in (word, *SYNONYMS.get(word, ()))]
