"""TensorRT optimization profiles: which one fits the shapes of a call.

Pure functions; no TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import NamedTuple

MAX_NAMED_INPUTS = 3  # in an error message: a decoder has many inputs of one size

Shape = tuple[int, ...]


class ShapeRange(NamedTuple):
    """The shapes of an input: the smallest, the one to optimize for, and the largest."""

    min: Shape
    opt: Shape
    max: Shape


Profile = Mapping[str, ShapeRange]  # by input


def select_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Select the profile whose optimal shapes are nearest to the inputs' shapes.

    The distance is the sum of absolute log ratios of the sizes. Equal pairs of sizes count once,
    because a decoder's many keys and values share one length.

    Returns:
        The index of the nearest profile that the shapes fit, or None if they fit none.
    """
    best, best_distance = None, inf
    for index, profile in enumerate(profiles):
        if _outside(profile, shapes):
            continue
        sizes = {
            size
            for name, shape in shapes.items()
            for size in zip(shape, profile[name].opt)  # a size may be 0
        }
        distance = sum(abs(log((1 + size) / (1 + opt))) for size, opt in sizes)
        if distance < best_distance:
            best, best_distance = index, distance
    return best


def describe_misfit(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> str:
    """Describe why shapes fit no profile: the inputs outside of the one that they almost fit."""
    misfits = ((profile, _outside(profile, shapes)) for profile in profiles)
    profile, names = min(misfits, key=lambda misfit: len(misfit[1]))

    def describe(name: str) -> str:
        if name not in profile:
            return f"unknown {name}"
        low, high = list(profile[name].min), list(profile[name].max)
        return f"{name} {list(shapes[name])} outside {low} to {high}"

    return ", ".join(map(describe, names[:MAX_NAMED_INPUTS]))


def _outside(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    def fits(name: str) -> bool:
        low, _, high = profile[name]
        shape = shapes[name]
        return len(shape) == len(high) and all(
            minimum <= size <= maximum for minimum, size, maximum in zip(low, shape, high)
        )

    return [name for name in shapes if name not in profile or not fits(name)]
