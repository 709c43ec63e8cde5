"""The order of numbered image files, and what is unusual in their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class ImageSequence:
    """File names in natural order: numbers in names are compared as numbers.

    Attributes:
        names: The names in order.
        notes: What is unusual: gaps, numbers of several widths, several series. One line each.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...]


def natural_order(names: Sequence[str]) -> ImageSequence:
    """Sort file names, numbers as numbers: ``2.png`` before ``10.png``.

    Names that differ in the text around the numbers are different series, one after the other.
    Numbers that mostly increase by the same step are those of frames; a larger step is a gap.

    >>> natural_order(["10.png", "9.png", "12.png"]).names
    ('9.png', '10.png', '12.png')
    """
    ordered = sorted(names, key=_key)
    notes = []
    if ordered != sorted(names):
        notes.append(
            f"numbers of different widths: images are ordered by number, {ordered[0]} to "
            f"{ordered[-1]}, not by text"
        )
    series = _series(ordered)
    if len(series) > 1 and any(len(members) > 1 for members in series.values()):
        firsts = ", ".join(members[0] for members in list(series.values())[:3])
        notes.append(
            f"images of {len(series)} series follow one another; the series begin with {firsts}"
            + ", ..." * (len(series) > 3)
        )
    for members in series.values():
        notes += _gaps(members)
    return ImageSequence(tuple(ordered), tuple(notes))


def _key(name: str) -> tuple[tuple[str | int, ...], str]:
    parts = _NUMBER.split(name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def _series(ordered: Sequence[str]) -> dict[str, list[str]]:
    """Group names by the text around their numbers, without the suffix."""
    series: dict[str, list[str]] = {}
    for name in ordered:
        series.setdefault(_NUMBER.sub("#", name.rpartition(".")[0]), []).append(name)
    return series


def _gaps(members: Sequence[str]) -> list[str]:
    """Lines about gaps and repeated numbers in one series."""
    values = [[int(number) for number in _NUMBER.findall(n.rpartition(".")[0])] for n in members]
    if len(members) < 3 or not values[0]:
        return []
    varying = [i for i in range(len(values[0])) if len({value[i] for value in values}) > 1]
    if len(varying) != 1:
        return []
    numbers = [value[varying[0]] for value in values]
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    lines = []
    if 0 in steps:
        lines.append(
            f"{steps.count(0)} images have the number of another one, the first after "
            f"{members[steps.index(0)]}"
        )
    step, count = Counter(s for s in steps if s).most_common(1)[0]
    if 2 * count < len(steps):
        return lines  # not frame numbers: times, for example
    missing = sum(s // step - 1 for s in steps if s > step)
    if missing:
        first = next(i for i, s in enumerate(steps) if s > step)
        lines.append(
            f"{missing} numbers are missing, the first after {members[first]}; the images are "
            "taken as evenly spaced in time"
        )
    return lines
