"""Predicted and true spans over time, by recording and camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_st_ros.evaluation.recording import MAX_GAP
from llava_st_ros.evaluation.report_page.charts import AxisTick, Lane, tick_values, timeline
from llava_st_ros.evaluation.report_page.texts import plural
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.records import NANOSECONDS

if TYPE_CHECKING:
    from markupsafe import Markup

Interval = tuple[int, int]


@dataclass(frozen=True)
class TimelineEntry:
    """One query's timeline.

    Attributes:
        case: Id of the case.
        id: Its anchor in the page.
        query: The query's text.
        task: Its task.
        figure: Its accuracy, with the metric's name.
        words: The drawing in words.
        svg: The drawing.
    """

    case: str
    id: str
    query: str
    task: str
    figure: str
    words: str
    svg: Markup


@dataclass(frozen=True)
class SourceTimelines:
    """The timelines of one camera, on a common axis."""

    source: str
    topic: str
    start: str
    ticks: tuple[AxisTick, ...]
    entries: tuple[TimelineEntry, ...]


def timelines_by_source(cases: Sequence[Case], figures: Mapping[str, str]) -> list[SourceTimelines]:
    """Return the timelines of cases that have one.

    Args:
        cases: The cases.
        figures: A case's accuracy in words, by id.
    """
    places: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        if case.expected is not None or case.predicted is not None:
            places.setdefault((case.source, case.topic), []).append(case)
    lines, counted = [], 0
    for (source, topic), of_place in places.items():
        start, end = _extent(of_place)
        entries = []
        for case in of_place:
            counted += 1
            entries.append(_entry(case, f"case-{counted}", start, end, figures.get(case.id, "")))
        duration = (end - start) / NANOSECONDS
        ticks = tuple(
            AxisTick(round(100 * value / duration, 3) if duration else 0.0, f"{value:g} s")
            for value in tick_values(0.0, duration)
        )
        lines.append(SourceTimelines(source, topic, _time(start), ticks, tuple(entries)))
    return lines


def spans_of(timeline: Timeline | None) -> tuple[Interval, ...]:
    """Return a timeline's spans, or those in which it has boxes if it has no span."""
    if timeline is None:
        return ()
    return timeline.spans or covered(timeline)


def covered(timeline: Timeline) -> tuple[Interval, ...]:
    """Return the intervals in which boxes are at most 1 s apart.

    >>> from llava_st_ros.records import Box
    >>> box = Box(0, 0, 1, 1)
    >>> covered(Timeline((), {0: box, NANOSECONDS: box, 3 * NANOSECONDS: box}))
    ((0, 1000000000), (3000000000, 3000000000))
    """
    intervals: list[Interval] = []
    for stamp in sorted(timeline.boxes):
        if intervals and stamp - intervals[-1][1] <= MAX_GAP:
            intervals[-1] = intervals[-1][0], stamp
        else:
            intervals.append((stamp, stamp))
    return tuple(intervals)


def _extent(cases: Sequence[Case]) -> Interval:
    intervals = [
        interval
        for case in cases
        for line in (case.expected, case.predicted)
        if line is not None
        for interval in (*line.spans, *covered(line))
    ]
    if not intervals:
        return 0, 0
    return min(start for start, _ in intervals), max(end for _, end in intervals)


def _entry(case: Case, anchor: str, start: int, end: int, figure: str) -> TimelineEntry:
    length = max(1, end - start)

    def scaled(intervals: Sequence[Interval]) -> tuple[tuple[float, float], ...]:
        return tuple(((a - start) / length, (b - start) / length) for a, b in intervals)

    lanes = [
        Lane(scaled(spans_of(line)), scaled(covered(line)) if line is not None else ())
        for line in (case.expected, case.predicted)
    ]
    words = "; ".join(
        f"{name}: {_in_words(spans_of(line), start)}"
        for name, line in (("true", case.expected), ("predicted", case.predicted))
    )
    return TimelineEntry(
        case.id,
        anchor,
        case.query or "(no text)",
        case.task,
        figure,
        words,
        timeline(lanes[0], lanes[1]),
    )


def _in_words(intervals: Sequence[Interval], start: int) -> str:
    if not intervals:
        return "nothing"
    shown = ", ".join(
        f"{(a - start) / NANOSECONDS:.1f} to {(b - start) / NANOSECONDS:.1f} s"
        for a, b in intervals[:8]
    )
    more = f" and {plural(len(intervals) - 8, 'more span')}" if len(intervals) > 8 else ""
    return shown + more


def _time(stamp: int) -> str:
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d} s"
