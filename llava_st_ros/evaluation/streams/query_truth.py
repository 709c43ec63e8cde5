"""The ground truth of one query, frame by frame."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from llava_st_ros.annotations.records import (
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.records import NANOSECONDS, Box, Span

STATIC_IOU = 0.9  # an object whose box keeps this IoU with its first box does not move


@dataclass(frozen=True)
class QueryTruth:
    """A query with the objects that it describes."""

    query: AnnotatedQuery
    objects: tuple[AnnotatedObject, ...]
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        active: list[list[int]] = []  # the union of the spans, in order and apart
        for span in sorted(self.query.spans, key=lambda span: span.start):
            if active and span.start <= active[-1][1]:
                active[-1][1] = max(active[-1][1], span.end)
            else:
                active.append([span.start, span.end])
        object.__setattr__(self, "_starts", tuple(start for start, _ in active))
        object.__setattr__(self, "_ends", tuple(end for _, end in active))

    @classmethod
    def of(cls, query: AnnotatedQuery, ground_truth: GroundTruth) -> QueryTruth:
        """Return the truth of a query of annotations."""
        return cls(query, ground_truth.objects_of(query))

    def is_active(self, stamp: int) -> bool:
        """Return whether something that the query describes is in progress at a stamp (ns)."""
        return self.overlaps(stamp, stamp)

    def expected(self, stamp: int) -> dict[str, Box]:
        """Return the boxes by object that a correct answer has at a frame's stamp (ns)."""
        if not self.is_active(stamp):
            return {}
        return {o.id: o.boxes[stamp] for o in self.objects if stamp in o.boxes}

    def hidden(self, stamp: int) -> int:
        """Return how many described objects are hidden at a stamp (ns) within a span."""
        if not self.is_active(stamp):
            return 0
        return sum(stamp not in o.boxes for o in self.objects)

    def spans_within(self, stamps: Sequence[int]) -> tuple[Span, ...]:
        """Return the spans that contain a frame, none starting before the first frame.

        Args:
            stamps: The stamps of the frames (ns), in increasing order.
        """
        return tuple(
            Span(max(span.start, stamps[0]), span.end)
            for span in self.query.spans
            if bisect_left(stamps, span.start) < bisect_right(stamps, span.end)
        )

    def overlaps(self, start: int, end: int) -> bool:
        """Return whether [start, end] (ns, both included) has a time in common with a span."""
        index = bisect_right(self._starts, end) - 1
        return index >= 0 and start <= self._ends[index]

    def inactive_seconds(self, stamps: Sequence[int]) -> float:
        """Return the header time from the first to the last frame that is in no span."""
        if not stamps:
            return 0.0
        first, last = stamps[0], stamps[-1]
        parts = (min(end, last) - max(start, first) for start, end in zip(self._starts, self._ends))
        return (last - first - sum(part for part in parts if part > 0)) / NANOSECONDS

    def is_static(self, stamps: Sequence[int]) -> bool:
        """Return whether nothing that the query describes changes during these frames.

        Nothing begins or ends; each object stays visible with an IoU of at least STATIC_IOU with
        its box in the first frame, or stays hidden.

        Args:
            stamps: The stamps of successive frames (ns).
        """
        if len({self.is_active(stamp) for stamp in stamps}) > 1:
            return False
        return all(stays(item, stamps, STATIC_IOU) for item in self.objects)


def stays(item: AnnotatedObject, stamps: Sequence[int], least_iou: float) -> bool:
    """Return whether an object stays visible in its place, or stays hidden.

    Args:
        item: The object.
        stamps: The stamps of successive frames (ns).
        least_iou: The IoU that its boxes have at least with the first one.
    """
    boxes = [item.boxes.get(stamp) for stamp in stamps]
    first = boxes[0] if boxes else None
    for box in boxes:
        if (box is None) != (first is None):
            return False
        if box is not None and first is not None and box.iou(first) < least_iou:
            return False
    return True
