"""Attention targets: the visual tokens that show why an answer is right.

The left edge of a box or an end of a span should be read from the visual tokens that show the
object or event in question. attention_alignment trains the decoder to attend to these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.records import Box, Modality, Task
from llava_st_ros.simulation.questions import Sample
from llava_st_ros.text.answer_format import NO_MATCH_TASKS

# How many of an answer's times are decisions, from the first on. The times of a tube follow from
# them, or (SVG) from the span in the question. Tasks not listed: all.
DECISION_TIMES = {Task.STVG: 2, Task.SVG: 0, Task.TVG: 2, Task.ELC: 1}


def left_edges(ids: np.ndarray, answer: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Mask the left edges of an answer's boxes.

    Args:
        ids: Token ids, int64 [n].
        answer: Mask of the answer, bool [n].
        config: The model's geometry.

    Returns:
        Bool [n].
    """
    edges = answer & config.coordinates.is_space(ids)
    return edges & (np.cumsum(edges) % 4 == 1)


def decisive_edges(boxes: Sequence[tuple[int | None, Box]]) -> np.ndarray:
    """Mask the boxes of a tube that do not follow from the previous one, bool [n].

    These are the first box, and those whose center has moved by more than half a side of the
    previous one.
    """
    decisive = np.zeros(len(boxes), dtype=bool)
    decisive[:1] = True
    for i, ((_, before), (_, after)) in enumerate(pairwise(boxes), start=1):
        across = abs(after.x1 + after.x2 - before.x1 - before.x2) / 2
        down = abs(after.y1 + after.y2 - before.y1 - before.y2) / 2
        decisive[i] = across > (before.x2 - before.x1) / 2 or down > (before.y2 - before.y1) / 2
    return decisive


def moving_boxes(boxes: Sequence[tuple[int | None, Box]]) -> np.ndarray:
    """Mask the boxes of a tube that are far from the previous or the next one, bool [n].

    Far is as in ``decisive_edges``.
    """
    far = decisive_edges(boxes)
    far[:1] = False
    return far | np.append(far[1:], False)[: len(far)]


def decision_times(
    ids: np.ndarray, answer: np.ndarray, task: Task, config: ModelConfig
) -> np.ndarray:
    """Mask the time tokens of an answer that no other token implies; see ``left_edges``."""
    times = answer & config.coordinates.is_time(ids)
    return times & (np.cumsum(times) <= DECISION_TIMES.get(task, len(ids)))


def attention_targets(
    ids: np.ndarray, answer: np.ndarray, sample: Sample, config: ModelConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Find the tokens of an answer to ``sample`` that have attention targets, and the targets.

    The targets of a left edge are the visual tokens of its box. While the object moves fast, these
    are the fast tokens only: a slow token shows it in several frames, and would give the box of a
    neighbor of the frame in question. The targets of a time are the visual tokens of the tube. The
    first word decides whether anything matches; its targets are the visual tokens of the described
    object in every frame, whether or not the answer is "no match".

    Args:
        ids: Token ids, int64 [n].
        answer: Mask of the answer, bool [n].
        sample: The question, its answer and the evidence.
        config: The model's geometry.

    Returns:
        Positions in ``ids``, int64 [k], and masks over the V visual tokens, bool [k, V].
    """
    modality = sample.task.modality
    boxes = [*sample.answer.boxes, *((sample.frame, box) for _, box in sample.answer.phrases)]
    shown = [box_tokens(frame, box, modality, config) for frame, box in boxes]
    targets = [target.copy() for target in shown]
    if modality is Modality.VIDEO:
        for target, is_moving in zip(targets, moving_boxes(boxes)):
            if is_moving:
                target[config.num_fast_tokens :] = False
    positions = np.flatnonzero(left_edges(ids, answer, config))
    assert len(positions) == len(targets), "an answer whose boxes are not the sample's"
    tube = [box_tokens(frame, box, modality, config) for frame, box in sample.tube] or shown
    if tube and modality is Modality.VIDEO:
        times = np.flatnonzero(decision_times(ids, answer, sample.task, config))
        positions = np.concatenate([positions, times])
        targets = [*targets, *[np.any(tube, axis=0)] * len(times)]
    subject = [box_tokens(frame, box, modality, config) for frame, box in sample.subject]
    if subject and sample.task in NO_MATCH_TASKS:
        positions = np.concatenate([np.flatnonzero(answer)[:1], positions])
        targets = [np.any(subject, axis=0), *targets]
    total = sum(visual_token_counts(config, modality))
    return positions, np.array(targets, dtype=bool).reshape(-1, total)


def visual_token_counts(config: ModelConfig, modality: Modality) -> tuple[int, ...]:
    """The number of visual tokens in each block of a prompt: (N,) or (fast, slow)."""
    if modality is Modality.IMAGE:
        return (config.tokens_per_frame,)
    return config.num_fast_tokens, config.num_slow_tokens


def box_tokens(frame: int | None, box: Box, modality: Modality, config: ModelConfig) -> np.ndarray:
    """Mask the visual tokens that show a box, bool [V].

    Image: the patches whose centers the box covers, and the patch of the box's center. Video: at
    the box's center, the fast token of ``frame`` and the slow token of its frames.
    """
    if modality is Modality.IMAGE:
        return np.outer(
            _covered(box.y1, box.y2, config.grid), _covered(box.x1, box.x2, config.grid)
        ).ravel()
    assert frame is not None
    fast, slow = config.fast_tokens_per_frame, config.slow_tokens_per_frame
    mask = np.zeros(config.num_fast_tokens + config.num_slow_tokens, dtype=bool)
    corners = (box.x1, box.y1, box.x2, box.y2)
    mask[frame * fast + center_cell(corners, config.fast_side)] = True
    step = frame // config.packer.temporal_region
    mask[config.num_fast_tokens + step * slow + center_cell(corners, config.slow_side)] = True
    return mask


def center_cell(corners: Sequence[float] | np.ndarray, side: int) -> int:
    """The cell, of side x side in row-major order, at the center of the box x1, y1, x2, y2."""
    x1, y1, x2, y2 = corners
    return _middle(y1, y2, side) * side + _middle(x1, x2, side)


def _covered(low: float, high: float, side: int) -> np.ndarray:
    centers = (np.arange(side) + 0.5) / side
    covered = (centers >= low) & (centers <= high)
    covered[_middle(low, high, side)] = True
    return covered


def _middle(low: float, high: float, side: int) -> int:
    return min(side - 1, max(0, int((low + high) / 2 * side)))
