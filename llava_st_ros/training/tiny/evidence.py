"""Which visual tokens show that an answer is right.

A token of an answer that *chooses*, the left edge of a box or an end of a span, should be read off
the place that shows what was asked about. attention_alignment teaches the decoder to look there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Box, Modality, Task
from llava_st_ros.simulation.questions import Sample

# How many of an answer's times are chosen: those of a tube count on from them or, of SVG, from the
# question's span. Of a task that is not here, all.
CHOSEN_TIMES = {Task.STVG: 2, Task.SVG: 0, Task.TVG: 2, Task.ELC: 1}


def left_edges(ids: np.ndarray, answer: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The left edges of an answer's boxes: bool [n] of ids int64 [n], answer bool [n]."""
    edges = answer & config.coordinates.is_space(ids)
    return edges & (np.cumsum(edges) % 4 == 1)


def chosen_times(
    ids: np.ndarray, answer: np.ndarray, task: Task, config: ModelConfig
) -> np.ndarray:
    """An answer's time tokens that no other token implies: bool [n] of ids int64 [n]."""
    times = answer & config.coordinates.is_time(ids)
    return times & (np.cumsum(times) <= CHOSEN_TIMES.get(task, len(ids)))


def evidence(
    ids: np.ndarray, answer: np.ndarray, sample: Sample, config: ModelConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The choosing tokens of an answer to ``sample`` and what shows that they are right.

    Returns their places int64 [k] in ids, and bool [k, V] of the V visual tokens: for a left edge
    those that show the box, for a time all that show the tube.
    """
    modality = sample.task.modality
    boxes = [*sample.answer.boxes, *((sample.frame, box) for _, box in sample.answer.phrases)]
    shown = [showing(frame, box, modality, config) for frame, box in boxes]
    places = np.flatnonzero(left_edges(ids, answer, config))
    assert len(places) == len(shown), "an answer whose boxes are not the sample's"
    tube = [showing(frame, box, modality, config) for frame, box in sample.tube] or shown
    if tube and modality is Modality.VIDEO:
        times = np.flatnonzero(chosen_times(ids, answer, sample.task, config))
        places = np.concatenate([places, times])
        shown = [*shown, *[np.any(tube, axis=0)] * len(times)]
    tokens = config.num_fast_tokens + config.num_slow_tokens
    if modality is Modality.IMAGE:
        tokens = config.tokens_per_frame
    return places, np.array(shown, dtype=bool).reshape(-1, tokens)


def showing(frame: int | None, box: Box, modality: Modality, config: ModelConfig) -> np.ndarray:
    """The visual tokens that show a box, bool [V].

    Of a picture the patches whose centers it covers and that of its own center; of a clip the
    fast token of its frame and the slow one of its frames at the box's center.
    """
    if modality is Modality.IMAGE:
        return np.outer(
            _covered(box.y1, box.y2, config.grid), _covered(box.x1, box.x2, config.grid)
        ).ravel()
    assert frame is not None
    fast, slow = config.fast_tokens_per_frame, config.slow_tokens_per_frame
    shown = np.zeros(config.num_fast_tokens + config.num_slow_tokens, dtype=bool)
    corners = (box.x1, box.y1, box.x2, box.y2)
    shown[frame * fast + cell(corners, config.fast_side)] = True
    step = frame // config.packer.temporal_region
    shown[config.num_fast_tokens + step * slow + cell(corners, config.slow_side)] = True
    return shown


def cell(corners: Sequence[float] | np.ndarray, side: int) -> int:
    """Which of side x side cells, row-major, holds the center of the box x1, y1, x2, y2."""
    x1, y1, x2, y2 = corners
    return _middle(y1, y2, side) * side + _middle(x1, x2, side)


def _covered(low: float, high: float, side: int) -> np.ndarray:
    centers = (np.arange(side) + 0.5) / side
    covered = (centers >= low) & (centers <= high)
    covered[_middle(low, high, side)] = True
    return covered


def _middle(low: float, high: float, side: int) -> int:
    return min(side - 1, max(0, int((low + high) / 2 * side)))
