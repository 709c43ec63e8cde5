"""How often the answers to a query change although nothing changes in front of the camera."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from llava_st_ros.evaluation.streams.query_stream import QueryStream
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.evaluation.streams.windows import is_match
from llava_st_ros.records import NANOSECONDS, Grounding, TrackState

JUMP_IOU = 0.5  # two boxes of one object with a smaller IoU


@dataclass(frozen=True)
class _Answered:
    """An answer with the tracks that it grounds."""

    grounding: Grounding
    tracks: frozenset[int]

    def differs(self, other: _Answered) -> bool:
        if is_match(self.grounding) != is_match(other.grounding):
            return True
        if self.tracks and other.tracks and not self.tracks & other.tracks:
            return True
        tube, other_tube = self.grounding.tube, other.grounding.tube
        if not len(tube) or not len(other_tube):
            return False
        return tube.boxes[-1].iou(other_tube.boxes[-1]) < JUMP_IOU


def changed_answers(truth: QueryTruth, stream: QueryStream) -> tuple[int, float]:
    """Return the number of changed answers on a static scene, and the minutes of static scene.

    Two successive answers are on a static scene if nothing that the query describes changes in any
    frame that the model saw for either, and between them (``QueryTruth.is_static``). The second is
    a change if one of them is a match and the other is not, if they ground different tracks, or if
    their newest boxes have an IoU below JUMP_IOU. The minutes are the header time from the newest
    frame of the first to that of the second, over all such pairs.
    """
    changes, nanoseconds = 0, 0
    answers = list(_answers(stream))
    for before, after in pairwise(answers):
        window, next_window = before.grounding.window, after.grounding.window
        if next_window[-1] <= window[-1]:
            continue
        first = bisect_left(stream.stamps, min(window[0], next_window[0]))
        last = bisect_right(stream.stamps, next_window[-1])
        if truth.is_static(stream.stamps[first:last]):
            changes += after.differs(before)
            nanoseconds += next_window[-1] - window[-1]
    return changes, nanoseconds / NANOSECONDS / 60


def _answers(stream: QueryStream) -> Iterator[_Answered]:
    for tick in stream.ticks:
        grounded = frozenset(t.track_id for t in tick.tracks if t.state is TrackState.GROUNDED)
        for grounding in tick.answers:
            yield _Answered(grounding, grounded)
