"""What happened: spans of successive answers become events that begin and end once.

The windows of a stream overlap, so that the same event is in many answers, and each places its
ends a little differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llava_st_ros.records import NANOSECONDS, Event, EventState, Grounding, Query, Span


@dataclass
class _Living:
    event_id: int
    span: Span
    grounding: Grounding


class EventTracker:
    """The events of one query on one camera: at most one of them lives at a time.

    Two spans are one event where they overlap or lie less than ``gap_seconds`` apart. An event
    lives while its span comes that near to the window's newest frame, and ends when an answer ends
    it earlier or has it no longer. An ended event is remembered while a window can still hold it:
    an answer that tells of it again says nothing new, except where it goes on from there up to the
    newest frames: that rest is an event of its own.

    Event ids come from ``ids``. The events returned are those that changed, oldest first.
    """

    def __init__(self, query: Query, ids: Iterator[int], gap_seconds: float) -> None:
        self._query = query
        self._ids = ids
        self._living: _Living | None = None
        self._past: list[Span] = []
        self.configure(gap_seconds)

    def configure(self, gap_seconds: float) -> None:
        """Take another gap from the next answer on; events stay."""
        self._gap = round(gap_seconds * NANOSECONDS)

    def update(self, grounding: Grounding) -> tuple[Event, ...]:
        """Take one answer, its window no older than the last one's."""
        window = grounding.window
        # A later window holds nothing before its oldest frame.
        self._past = [past for past in self._past if past.end + self._gap >= window[0]]
        span, living = grounding.span, self._living
        if living is not None:
            if span is not None and self._same(span, living.span):
                return self._go_on(living, self._refined(living.span, span, window), grounding)
            ended = self.end()
        else:
            ended = ()
        return ended + (self._begin(span, grounding) if span is not None else ())

    def end(self) -> tuple[Event, ...]:
        """End the living event where it stands: the query was removed, the stream is over."""
        living = self._living
        if living is None:
            return ()
        self._living = None
        self._past.append(living.span)
        return (self._event(living, EventState.ENDED),)

    def restart(self) -> tuple[Event, ...]:
        """End the living event and forget the past: the stream began anew."""
        ended = self.end()
        self._past.clear()
        return ended

    def _begin(self, span: Span, grounding: Grounding) -> tuple[Event, ...]:
        told = [past for past in self._past if self._same(span, past)]
        if told:
            known = max(past.end for past in told)
            if self._over(span, grounding):
                # Told again, a little differently: widen what is known, so that an answer that
                # drifts further is still known.
                self._past = [past for past in self._past if past not in told]
                self._past.append(
                    Span(min(span.start, *(p.start for p in told)), max(span.end, known))
                )
                return ()
            if span.end - known <= self._gap:
                return ()
            span = Span(max(span.start, known), span.end)
        living = _Living(next(self._ids), span, grounding)
        self._living = living
        begun = (self._event(living, EventState.BEGUN),)
        return begun + (self.end() if self._over(span, grounding) else ())

    def _go_on(self, living: _Living, span: Span, grounding: Grounding) -> tuple[Event, ...]:
        changed = span != living.span
        living.span, living.grounding = span, grounding
        if self._over(span, grounding):
            return self.end()
        return (self._event(living, EventState.ONGOING),) if changed else ()

    def _same(self, a: Span, b: Span) -> bool:
        return a.start - b.end < self._gap and b.start - a.end < self._gap

    def _over(self, span: Span, grounding: Grounding) -> bool:
        return grounding.window[-1] - span.end > self._gap

    def _refined(self, old: Span, new: Span, window: tuple[int, ...]) -> Span:
        # What lies before the window the new answer could not see.
        start = old.start if old.start < window[0] else new.start
        start = max([start, *(past.end for past in self._past)])
        return Span(start, max(start, new.end))

    def _event(self, living: _Living, state: EventState) -> Event:
        grounding = living.grounding
        return Event(
            query_id=self._query.id,
            event_id=living.event_id,
            text=self._query.text,
            span=living.span,
            state=state,
            confidence=grounding.confidence,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
        )
