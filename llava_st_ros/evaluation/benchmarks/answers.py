"""Answers in the frames of the sample's video: what the model saw is mapped back.

The model answers in time tokens, which are frames of its window. A span of tokens a..b is from the
frame of a to that of b, both included. Boxes are answered for sampled frames; between two of them
they are interpolated linearly, and before the first and after the last one, within the span, the
nearest one is used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from llava_st_ros.records import Answer, Box


def answered_span(answer: Answer, frames: Sequence[int]) -> tuple[int, int] | None:
    """Return the span in the video's frames, the end excluded; None without one.

    Args:
        answer: The answer, in time tokens.
        frames: The video's frame of each time token.

    >>> from llava_st_ros.records import Task
    >>> answered_span(Answer(Task.TVG, span=(1, 2)), (10, 14, 18))
    (14, 19)
    """
    if answer.span is None:
        return None
    first, last = (frames[min(max(token, 0), len(frames) - 1)] for token in answer.span)
    return min(first, last), max(first, last) + 1


def answered_boxes(answer: Answer, frames: Sequence[int]) -> dict[int, Box]:
    """Return the answered boxes by the video's frame.

    Of several boxes of a frame, in a video shorter than the window, the last one counts. Boxes of
    tokens past the window are ignored.

    Args:
        answer: The answer, in time tokens.
        frames: The video's frame of each time token.
    """
    return {
        frames[token]: box
        for token, box in answer.boxes
        if token is not None and 0 <= token < len(frames)
    }


def dense_tube(boxes: Mapping[int, Box], span: tuple[int, int]) -> dict[int, Box]:
    """Return a box for each frame of a span (end excluded); none if there is no box at all.

    Args:
        boxes: Box by frame.
        span: The first frame, and the one after the last.

    >>> dense_tube({4: Box(0.0, 0.0, 0.25, 1.0), 6: Box(0.5, 0.0, 0.75, 1.0)}, (5, 8))
    ... # doctest: +NORMALIZE_WHITESPACE
    {5: Box(x1=0.25, y1=0.0, x2=0.5, y2=1.0), 6: Box(x1=0.5, y1=0.0, x2=0.75, y2=1.0),
     7: Box(x1=0.5, y1=0.0, x2=0.75, y2=1.0)}
    """
    if not boxes:
        return {}
    known = sorted(boxes)
    return {frame: _box_at(frame, known, boxes) for frame in range(*span)}


def _box_at(frame: int, known: Sequence[int], boxes: Mapping[int, Box]) -> Box:
    after = bisect_left(known, frame)
    if after == len(known):
        return boxes[known[-1]]
    if after == 0 or known[after] == frame:
        return boxes[known[after]]
    earlier, later = known[after - 1], known[after]
    share = (frame - earlier) / (later - earlier)
    a, b = boxes[earlier], boxes[later]
    return Box(
        *(
            getattr(a, name) + share * (getattr(b, name) - getattr(a, name))
            for name in ("x1", "y1", "x2", "y2")
        )
    )
