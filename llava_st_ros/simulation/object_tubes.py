"""Questions that track an object regardless of events: dense training data for boxes."""

from __future__ import annotations

import numpy as np

from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.simulation.phrasing import object_text
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.spatial_relations import VisibleObjects


def object_tube_samples(
    clip: SimulatedClip, rng: np.random.Generator, shortest: int, longest: int
) -> list[Sample]:
    """Return an SVG question per object, over a random span in which it is always visible.

    In a long tube all boxes but the first can be learned from the previous box. Many short tubes
    teach the model to find the object.

    Args:
        clip: The clip.
        rng: The random generator.
        shortest: Minimum length of the span in frames.
        longest: Maximum length of the span in frames.
    """
    samples = []
    last = len(clip.frames) - 1
    for index in range(len(clip.objects)):
        run = longest_run(clip.is_visible[:, index])
        if run is None or run[1] - run[0] + 1 < shortest:
            continue
        frames = int(rng.integers(shortest, min(longest, run[1] - run[0] + 1) + 1))
        first = int(rng.integers(run[0], run[1] - frames + 2))
        span = (first, first + frames - 1)
        text = object_text(index, VisibleObjects.from_boxes(clip.objects, clip.boxes[first]), rng)
        if text is None:
            continue
        boxes = tuple(
            (frame, Box(*(float(v) for v in clip.boxes[frame, index])))
            for frame in range(span[0], span[1] + 1)
        )
        samples.append(
            Sample(
                Task.SVG,
                text,
                (span[0] / last, span[1] / last),
                None,
                None,
                Answer(Task.SVG, span=span, boxes=boxes),
            )
        )
    return samples


def longest_run(visible: np.ndarray) -> tuple[int, int] | None:
    """Return the first and last index of the longest run of True in bool [F], None if none."""
    edges = np.diff(np.concatenate([[0], visible.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return None
    best = int(np.argmax(ends - starts))
    return int(starts[best]), int(ends[best]) - 1
