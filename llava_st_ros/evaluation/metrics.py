"""Grounding metrics as pure functions.

Conventions:

- A span is half open, ``(start, end)`` with ``start <= end``, in any unit. Answers name their
  first and last frame, both inclusive: ``frame_span(a, b)`` is ``[a, b + 1)``, so one frame has
  length 1, as in HC-STVG and VidSTG.
- A tube maps a frame's key (index or stamp) to its ``Box``, or to None where the frame belongs to
  the tube's span but has no box. Such a frame counts in unions and contributes an IoU of 0.
- Means are over all cases of a set. An answer that cannot be parsed counts as 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from llava_st_ros.records import Box

Key = TypeVar("Key", bound=Hashable)
Tube = Mapping[Key, Box | None]


def frame_span(first: int, last: int) -> tuple[int, int]:
    """Return frames ``first`` to ``last``, both inclusive, as a half-open span.

    >>> frame_span(3, 3)
    (3, 4)
    """
    return first, last + 1


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the temporal IoU of two half-open spans; 0 if both are empty.

    tIoU = |A and B| / |A or B|

    >>> span_iou(frame_span(0, 4), frame_span(0, 4))
    1.0
    >>> span_iou(frame_span(0, 3), frame_span(2, 5))  # frames 2 and 3 of 0..5
    0.3333333333333333
    >>> span_iou((0, 1), (1, 2))
    0.0
    """
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return intersection / union if union > 0 else 0.0


def box_ious(predicted: Tube[Key], expected: Tube[Key]) -> dict[Key, float]:
    """Return the box IoU at every frame in both tubes; 0 where either tube has no box.

    >>> box_ious({0: Box(0, 0, 1, 1), 1: None}, {0: Box(0, 0, 0.5, 1), 1: Box(0, 0, 1, 1)})
    {0: 0.5, 1: 0.0}
    """
    ious = {}
    for key in predicted.keys() & expected.keys():
        a, b = predicted[key], expected[key]
        ious[key] = a.iou(b) if a is not None and b is not None else 0.0
    return ious


def viou(predicted: Tube[Key], expected: Tube[Key]) -> float:
    """Return the volumetric IoU of two tubes; 0 if both are empty.

    vIoU = sum over t in P and G of IoU(P_t, G_t) / |P or G|

    The metric of VidSTG and HC-STVG (stIoU in ST-Align). Temporal and spatial errors both lower it.

    >>> full, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    >>> viou({0: full, 1: full}, {0: full, 1: full})
    1.0
    >>> viou({1: left, 2: left}, {0: full, 1: full})  # one common frame of three, IoU 1/2
    0.16666666666666666
    """
    union = len(predicted.keys() | expected.keys())
    return sum(box_ious(predicted, expected).values()) / union if union else 0.0


def siou(predicted: Tube[Key], expected: Tube[Key]) -> float:
    """Return the spatial IoU of two tubes: the mean box IoU over their common frames, 0 if none.

    sIoU = sum over t in P and G of IoU(P_t, G_t) / |P and G|

    ST-Align's spatial metric: it ignores how well the two spans agree.

    >>> full, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    >>> siou({1: left, 2: left}, {0: full, 1: full})
    0.5
    """
    return mean(list(box_ious(predicted, expected).values()))


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, 0 for no values.

    >>> mean([0.0, 1.0]), mean([])
    (0.5, 0.0)
    """
    return float(np.mean(values)) if len(values) else 0.0
