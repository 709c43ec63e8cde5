"""Metrics of grounding, as pure functions.

Conventions, stated once:

- A span is half open, ``(start, end)`` with ``start <= end``, in any unit. Answers name their
  first and last frame, both included: ``frame_span(a, b)`` is ``[a, b + 1)``, so that one frame
  has length 1 (HC-STVG and VidSTG count the same way).
- A tube is a mapping from a frame's key (index or stamp) to its ``Box``, or to None where the
  frame belongs to the tube's time but no box was given there: it counts in unions and adds 0.
- A mean is taken over the cases of a set; an answer that could not be parsed stays in it as 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from llava_st_ros.records import Box

Key = TypeVar("Key", bound=Hashable)
Tube = Mapping[Key, Box | None]


def frame_span(first: int, last: int) -> tuple[int, int]:
    """Frames ``first`` to ``last``, both included, as a half-open span.

    >>> frame_span(3, 3)
    (3, 4)
    """
    return first, last + 1


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """tIoU = |a and b| / |a or b| of two half-open spans; 0 where both are empty.

    >>> span_iou(frame_span(0, 4), frame_span(0, 4))
    1.0
    >>> span_iou(frame_span(0, 3), frame_span(2, 5))  # frames 2, 3 of 0..5
    0.3333333333333333
    >>> span_iou((0, 1), (1, 2))
    0.0
    """
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return intersection / union if union > 0 else 0.0


def tube_overlaps(predicted: Tube[Key], truth: Tube[Key]) -> dict[Key, float]:
    """The IoU of the two boxes at every frame that both tubes hold (0 where one has no box)."""
    overlaps = {}
    for key in predicted.keys() & truth.keys():
        ours, theirs = predicted[key], truth[key]
        overlaps[key] = ours.iou(theirs) if ours is not None and theirs is not None else 0.0
    return overlaps


def viou(predicted: Tube[Key], truth: Tube[Key]) -> float:
    """vIoU = sum over t in P and G of IoU(P_t, G_t), divided by |P or G|; 0 where both are empty.

    The measure of VidSTG and HC-STVG (ST-Align's stIoU): it falls with wrong time and wrong place.

    >>> whole, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    >>> viou({0: whole, 1: whole}, {0: whole, 1: whole})
    1.0
    >>> viou({1: left, 2: left}, {0: whole, 1: whole})  # one common frame of three, IoU 1/2
    0.16666666666666666
    """
    union = len(predicted.keys() | truth.keys())
    return sum(tube_overlaps(predicted, truth).values()) / union if union else 0.0


def siou(predicted: Tube[Key], truth: Tube[Key]) -> float:
    """sIoU = sum over t in P and G of IoU(P_t, G_t), divided by |P and G|; 0 where that is empty.

    ST-Align's spatial measure: the place alone, wherever the two times meet.

    >>> whole, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    >>> siou({1: left, 2: left}, {0: whole, 1: whole})
    0.5
    """
    return mean(list(tube_overlaps(predicted, truth).values()))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, 0 for no values.

    >>> mean([0.0, 1.0]), mean([])
    (0.5, 0.0)
    """
    return float(np.mean(values)) if len(values) else 0.0


def share_above(values: Sequence[float], threshold: float) -> float:
    """The share of values strictly above the threshold: vIoU@R (HC-STVG), R1@m (Charades-STA).

    >>> share_above([0.3, 0.31, 0.9, 0.0], 0.3)
    0.5
    """
    return mean([float(value > threshold) for value in values])


def share_reaching(values: Sequence[float], threshold: float) -> float:
    """The share of values at or above the threshold: Acc@0.5 of RefCOCO, ST-Align's sIoU@R.

    >>> share_reaching([0.5, 0.49], 0.5)
    0.5
    """
    return mean([float(value >= threshold) for value in values])


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean: cases are drawn with replacement.

    ``values`` [N], one a case (0 or 1 for an accuracy). The seed makes a report repeatable.

    >>> bootstrap_interval([0.25, 0.25, 0.25])
    (0.25, 0.25)
    >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
    >>> 0.38 < low < 0.45 and 0.55 < high < 0.62
    True
    """
    if not len(values):
        return 0.0, 0.0
    data = np.asarray(values, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(data[draws].mean(axis=1), (tail, 1.0 - tail))
    return float(low), float(high)
