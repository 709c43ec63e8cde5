"""How single answers to a query about events relate to what their window shows.

A window is classified by the annotated spans that it contains, at the stamps of its slots:

========= ========================================================================================
complete  contains a span from start to end
cut       an edge of the window cuts each span that it contains
without   has no time in common with a span
(neither) a span is seen in fewer than MIN_SLOTS slots only; such windows are not counted
========= ========================================================================================

Keys of ``WindowFigures``:

========================== =======================================================================
answered_without           answers other than "no match" in windows without the event, such windows
missed_complete            "no match" answers in windows with the complete event, such windows
missed_cut                 "no match" answers in windows where an edge cuts the event, such windows
complete_viou              sum of vIoU over the other answers in complete windows, such answers
cut_viou                   the same in cut windows: compared with the part of the event in the
                           window
match_probability_complete P(match) of each complete window
match_probability_without  P(match) of each window without the event
match_probability_other    P(match) of those among them in which something else happens
missed_visible             of REC: "no match" answers about frames that show the object, such frames
answered_invisible         of REC: other answers about frames outside the spans, such frames
========================== =======================================================================

Something else happens where the box of any annotated object of the camera has an IoU below
MOVED_IOU with its first box in the window, or is there in some slots only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from llava_st_ros.annotations.records import AnnotatedObject
from llava_st_ros.evaluation.streams.query_truth import QueryTruth, stays
from llava_st_ros.evaluation.streams.tracking_metrics import tube_overlaps
from llava_st_ros.evaluation.streams.tubes import compared_frames
from llava_st_ros.records import Grounding, Modality, Span

MIN_SLOTS = 2  # in which an event must be seen
MOVED_IOU = 0.5
DIGITS = 5  # decimals of a sample


class WindowKind(Enum):
    """What a window shows of the events that a query describes."""

    COMPLETE = "complete"
    CUT = "cut"
    WITHOUT = "without"


@dataclass
class WindowFigures:
    """Counts and samples of the answers to one query, by the keys above."""

    counts: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def _count(self, key: str, above: float, below: float = 1.0) -> None:
        total = self.counts.get(key, (0.0, 0.0))
        self.counts[key] = total[0] + above, total[1] + below

    def _sample(self, key: str, value: float) -> None:
        self.samples[key] = (*self.samples.get(key, ()), round(value, DIGITS))

    def add(self, answer: Grounding, truth: QueryTruth, objects: Iterable[AnnotatedObject]) -> None:
        """Add an answer.

        Args:
            answer: The answer.
            truth: The query's ground truth.
            objects: All annotated objects of the camera.
        """
        is_answered = is_match(answer)
        if answer.query.task.modality is Modality.IMAGE:
            stamp = answer.window[-1]
            if truth.expected(stamp):
                self._count("missed_visible", not is_answered)
            elif not truth.is_active(stamp):
                self._count("answered_invisible", is_answered)
            return
        kind = window_kind(truth.query.spans, answer.window)
        if kind is None:
            return
        match = answer.match_probability
        if kind is WindowKind.WITHOUT:
            self._count("answered_without", is_answered)
            if match is not None:
                self._sample("match_probability_without", match)
                if moves(objects, answer.window):
                    self._sample("match_probability_other", match)
            return
        self._count(f"missed_{kind.value}", not is_answered)
        if is_answered and truth.objects:
            self._count(f"{kind.value}_viou", window_viou(truth, answer))
        if match is not None and kind is WindowKind.COMPLETE:
            self._sample("match_probability_complete", match)


def window_kind(spans: Sequence[Span], window: Sequence[int]) -> WindowKind | None:
    """Classify a window.

    Args:
        spans: The annotated spans (ns).
        window: The stamps of its slots (ns), in increasing order.

    Returns:
        None where a span overlaps the window, but none is seen in MIN_SLOTS slots.

    >>> window = (0, 10, 20, 30)
    >>> window_kind([Span(10, 25)], window)
    <WindowKind.COMPLETE: 'complete'>
    >>> window_kind([Span(15, 35)], window)
    <WindowKind.CUT: 'cut'>
    >>> window_kind([Span(31, 35)], window)
    <WindowKind.WITHOUT: 'without'>
    >>> window_kind([Span(12, 21)], window) is None
    True
    """
    first, last = window[0], window[-1]
    overlapping = [span for span in spans if span.start <= last and first <= span.end]
    if not overlapping:
        return WindowKind.WITHOUT
    seen = [
        span
        for span in overlapping
        if sum(span.start <= stamp <= span.end for stamp in set(window)) >= MIN_SLOTS
    ]
    if any(first <= span.start and span.end <= last for span in seen):
        return WindowKind.COMPLETE
    return WindowKind.CUT if seen else None


def is_match(answer: Grounding) -> bool:
    """Return whether an answer is a match: neither "no match" nor empty."""
    has_content = answer.span is not None or len(answer.tube) > 0
    return has_content and not answer.answer.no_match


def window_viou(truth: QueryTruth, answer: Grounding) -> float:
    """Return the vIoU of an answer with the event in its window that it overlaps best.

    Only the slots of the window count, and of them those in which the object is visible.
    """
    stamps = tuple(dict.fromkeys(answer.window))
    boxes = {stamp: {0: box} for stamp, box in answer.tube.as_dict().items()}
    best = 0.0
    for span in truth.query.spans:
        alone = QueryTruth(replace(truth.query, spans=(span,)), truth.objects)
        best = max(best, tube_overlaps(compared_frames(alone, stamps, boxes))[0])
    return best


def moves(objects: Iterable[AnnotatedObject], window: Sequence[int]) -> bool:
    """Return whether any object moves, appears or disappears between the slots of a window."""
    return not all(stays(item, window, MOVED_IOU) for item in objects)
