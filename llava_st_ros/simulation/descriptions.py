"""What objects are called: their attributes in words, synonyms included.

Questions use every way of saying a thing, answers the first one only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject

OBJECT = "object"
# Other words for the simulator's names.
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
_PLAIN = 0.7  # how often a thing with synonyms is called by its first name


@dataclass(frozen=True)
class Description:
    """What is said of an object; an attribute that is not said is None."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def matches(self, item: SimulatedObject) -> bool:
        """Whether all that is said is true of it."""
        return (
            self.size in (None, item.size)
            and self.color in (None, item.color)
            and self.shape in (None, item.shape)
        )

    def words(self, rng: np.random.Generator) -> str:
        """For example "small red ball", "red object", "little sphere"."""
        said = (self.size, self.color, self.shape or OBJECT)
        return " ".join(choose_synonym(word, rng) for word in said if word)


def choose_synonym(word: str, rng: np.random.Generator) -> str:
    """A word or, at times, another for it."""
    others = SYNONYMS.get(word)
    if others is None or rng.random() < _PLAIN:
        return word
    return others[int(rng.integers(len(others)))]


def by_color_and_shape(item: SimulatedObject) -> Description:
    """By color and shape, as most people would."""
    return Description(color=item.color, shape=item.shape)


def descriptions(item: SimulatedObject) -> list[Description]:
    """Everything that can be said of an object's attributes, "object" alone included."""
    ways = product((item.size, None), (item.color, None), (item.shape, None))
    return [Description(*said) for said in ways]


def distinguishing_descriptions(
    item: SimulatedObject, others: Iterable[SimulatedObject]
) -> list[Description]:
    """Those of an object's descriptions that fit none of the others."""
    others = list(others)
    return [d for d in descriptions(item) if not any(d.matches(other) for other in others)]


def sample_description(rng: np.random.Generator, ways: list[Description]) -> Description:
    """One of the descriptions, names and short ones more often than full or vague ones."""
    weights = np.array([_weight(d) for d in ways])
    return ways[int(rng.choice(len(ways), p=weights / weights.sum()))]


def _weight(description: Description) -> float:
    if description.color and description.shape:
        return 1.5 if description.size else 4.0
    return 1.0 if description.shape or description.color else 0.4


def vocabulary() -> list[str]:
    """Every word for an attribute or an object."""
    words = (*COLORS, *SHAPES, *SIZES, OBJECT)
    return [way for word in words for way in (word, *SYNONYMS.get(word, ()))]
