"""Events: the spans of successive answers, merged so that each event begins and ends once.

The windows of a stream overlap: the same event is in many answers, with slightly different ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llava_st_ros.records import Event, EventState, Grounding, Query, Span, to_nanoseconds


@dataclass
class _ActiveEvent:
    event_id: int
    span: Span
    grounding: Grounding


class EventTracker:
    """The events of one query on one camera; at most one of them is active.

    Two spans are the same event if they overlap or are less than ``gap_seconds`` apart. An event is
    active while its span ends within that distance of the newest frame of the window. It ends when
    an answer ends it earlier or does not contain it. Ended events are remembered while a window can
    contain them: an answer that contains one again changes nothing, unless its span now reaches the
    newest frames; the part after the known end is then a new event.

    Methods return the events that changed, oldest first.

    Args:
        query: The query.
        ids: Yields event ids.
        gap_seconds: The largest distance at which two spans are the same event.
    """

    def __init__(self, query: Query, ids: Iterator[int], gap_seconds: float) -> None:
        self._query = query
        self._ids = ids
        self._active: _ActiveEvent | None = None
        self._past: list[Span] = []
        self.configure(gap_seconds)

    def configure(self, gap_seconds: float) -> None:
        """Change the gap from the next answer on; events are kept."""
        self._gap = to_nanoseconds(gap_seconds)

    def update(self, grounding: Grounding) -> tuple[Event, ...]:
        """Process an answer whose window is not older than the previous one."""
        window = grounding.window
        # Later windows contain nothing before the oldest frame of this one.
        self._past = [past for past in self._past if past.end + self._gap >= window[0]]
        span, active = grounding.span, self._active
        if active is not None:
            if span is not None and self._is_same(span, active.span):
                return self._continue(active, self._refined(active.span, span, window), grounding)
            ended = self.end()
        else:
            ended = ()
        return ended + (self._begin(span, grounding) if span is not None else ())

    def end(self) -> tuple[Event, ...]:
        """End the active event at its current end: the query is removed or the stream is over."""
        active = self._active
        if active is None:
            return ()
        self._active = None
        self._past.append(active.span)
        return (self._record(active, EventState.ENDED),)

    def reset(self) -> tuple[Event, ...]:
        """End the active event and forget ended ones, after a stream reset."""
        ended = self.end()
        self._past.clear()
        return ended

    def _begin(self, span: Span, grounding: Grounding) -> tuple[Event, ...]:
        overlapping = [past for past in self._past if self._is_same(span, past)]
        if overlapping:
            overlapping_end = max(past.end for past in overlapping)
            if self._is_over(span, grounding):
                # The same event with other ends: remember the union, so that an answer whose ends
                # drift further is still recognized.
                self._past = [past for past in self._past if past not in overlapping]
                self._past.append(
                    Span(
                        min(span.start, *(p.start for p in overlapping)),
                        max(span.end, overlapping_end),
                    )
                )
                return ()
            if span.end - overlapping_end <= self._gap:
                return ()
            span = Span(max(span.start, overlapping_end), span.end)
        active = _ActiveEvent(next(self._ids), span, grounding)
        self._active = active
        begin_event = (self._record(active, EventState.BEGUN),)
        return begin_event + (self.end() if self._is_over(span, grounding) else ())

    def _continue(
        self, active: _ActiveEvent, span: Span, grounding: Grounding
    ) -> tuple[Event, ...]:
        changed = span != active.span
        active.span, active.grounding = span, grounding
        if self._is_over(span, grounding):
            return self.end()
        return (self._record(active, EventState.ONGOING),) if changed else ()

    def _is_same(self, a: Span, b: Span) -> bool:
        return a.start - b.end < self._gap and b.start - a.end < self._gap

    def _is_over(self, span: Span, grounding: Grounding) -> bool:
        return grounding.window[-1] - span.end > self._gap

    def _refined(self, previous: Span, current: Span, window: tuple[int, ...]) -> Span:
        # The new answer has not seen what precedes its window.
        start = previous.start if previous.start < window[0] else current.start
        start = max([start, *(past.end for past in self._past)])
        return Span(start, max(start, current.end))

    def _record(self, active: _ActiveEvent, state: EventState) -> Event:
        grounding = active.grounding
        return Event(
            query_id=self._query.id,
            event_id=active.event_id,
            text=self._query.text,
            span=active.span,
            state=state,
            confidence=grounding.confidence,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
        )
