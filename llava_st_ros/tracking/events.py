"""Events: when the evidence says that what a query describes happens, each reported once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import (
    BoxTube,
    EndReason,
    Event,
    EventState,
    Grounding,
    Query,
    Span,
    to_nanoseconds,
)
from llava_st_ros.tracking.evidence import Evidence, Slot

MAX_TUBE_BOXES = 256  # of an event or a track; the oldest are dropped
END_ANSWERS = 2  # that have seen what comes after an event, before it has ended


@dataclass(frozen=True)
class Run:
    """Successive slots that belong to one event.

    Attributes:
        slots: The slots; not empty.
    """

    slots: tuple[Slot, ...]

    @property
    def span(self) -> Span:
        return Span(self.slots[0].stamp, self.slots[-1].stamp)

    @property
    def peak(self) -> Slot:
        """The slot of the greatest probability, the earliest of several."""
        return max(self.slots, key=lambda slot: slot.probability)

    @property
    def probability(self) -> float:
        """The mean probability of the slots."""
        return sum(slot.probability for slot in self.slots) / len(self.slots)

    @property
    def tube(self) -> BoxTube:
        """The boxes of the slots that have one."""
        found = [(slot.stamp, slot.box) for slot in self.slots]
        boxes = [(stamp, box) for stamp, box in found if box is not None]
        return BoxTube(tuple(stamp for stamp, _ in boxes), tuple(box for _, box in boxes))

    def answers(self, threshold: float) -> int:
        """Return how many answers place the match in the run with at least this probability."""
        found = {v.newest for s in self.slots for v in s.votes if v.probability >= threshold}
        return len(found)


def find_runs(slots: Sequence[Slot], threshold: float, gap: int) -> list[Run]:
    """Return the runs of slots whose probability reaches a threshold.

    Args:
        slots: In order of time.
        threshold: Smallest probability.
        gap: Two runs that are less than this apart (ns) are one; the slots between belong to it.
    """
    runs: list[list[int]] = []
    for index, slot in enumerate(slots):
        if slot.probability < threshold:
            continue
        last = runs[-1] if runs else None
        if last is not None and (index == last[-1] + 1 or slot.stamp - slots[last[-1]].stamp < gap):
            last[-1] = index
        else:
            runs.append([index, index])
    return [Run(tuple(slots[first : last + 1])) for first, last in runs]


@dataclass(frozen=True)
class EventTube:
    """Where a confirmed event happens.

    Attributes:
        event_id: Id of the event.
        tube: Its boxes; empty if the answers have none.
        probability: The mean probability of its moments.
        is_final: Whether the event has ended, so that nothing of this changes any more.
    """

    event_id: int
    tube: BoxTube
    probability: float
    is_final: bool


@dataclass
class _OpenEvent:
    """An event that has not ended.

    Attributes:
        span: When it happens, by the evidence until now.
        run: Its evidence.
        grounding: The latest answer about it.
        confirmed: Whether enough answers have agreed on it.
        event_id: Set when it is first published.
        published: The state and span last published.
        tube: Its boxes.
    """

    span: Span
    run: Run
    grounding: Grounding
    confirmed: bool = False
    event_id: int | None = None
    published: tuple[EventState, Span] | None = None
    tube: BoxTube = field(default_factory=BoxTube)


class EventTracker:
    """The events of one query on one camera.

    An event is a run of slots whose probability reaches ``evidence_on`` somewhere and
    ``evidence_off`` everywhere, apart from gaps shorter than ``event_gap_seconds``. It is
    PROVISIONAL until ``confirmations`` answers agree on it (fewer if fewer see it, as with a long
    period), then CONFIRMED, and published again when its span changes. It has ENDED when
    END_ANSWERS answers have seen what comes more than the gap after its end, and is final from then
    on. It is RETRACTED when its evidence is gone before or has become part of another event's, or
    when it was not confirmed and no window will show it again.

    What evidence says later about an ended event is ignored, unless it goes on for more than the
    gap after the published end: the rest is a new event.

    Methods return what to publish, oldest event first.

    Args:
        query: The query.
        ids: Yields event ids.
        config: Thresholds, confirmations, gap.
    """

    def __init__(self, query: Query, ids: Iterator[int], config: GrounderConfig) -> None:
        self._query = query
        self._ids = ids
        self._open: list[_OpenEvent] = []  # in order of time
        self._past: list[Span] = []  # ended events that evidence may still be about
        self._final_tubes: list[EventTube] = []
        self.configure(config)

    def configure(self, config: GrounderConfig) -> None:
        """Change the settings from the next answer on; events are kept."""
        self._on, self._off = config.evidence_on, config.evidence_off
        # Of a query whose period is longer than the window, one answer sees each moment.
        answers = max(1, int(config.stream.window_seconds // self._query.period))
        self._confirmations = min(config.confirmations, answers)
        self._end_answers = min(END_ANSWERS, answers)
        self._publishes_provisional = config.provisional_events
        self._gap = to_nanoseconds(config.event_gap_seconds)

    @property
    def tubes(self) -> tuple[EventTube, ...]:
        """The boxes of the confirmed events, in order of time: final when the event has ended.

        A final tube is given once, after the call that ended the event.
        """
        going_on = [self._tube(event) for event in self._open if event.confirmed]
        return (*self._final_tubes, *going_on)

    @property
    def has_unconfirmed(self) -> bool:
        """Whether an event waits for another answer to be CONFIRMED."""
        return any(not event.confirmed for event in self._open)

    def update(self, evidence: Evidence, grounding: Grounding) -> tuple[Event, ...]:
        """Process the evidence after an answer was added to it."""
        assert evidence.window is not None
        slots = evidence.slots
        oldest = evidence.window[0]
        self._past = [past for past in self._past if past.end + self._gap >= slots[0].stamp]
        runs = self._runs(slots)
        found: list[Event] = []
        kept: list[_OpenEvent] = []
        self._final_tubes.clear()
        for event, run in self._assign(runs, slots[0].stamp, grounding):
            if run is None:
                if event.span.end < slots[0].stamp:  # evidence has not changed, it is forgotten
                    found += self._close(event)
                else:
                    found += self._retract(event)
                continue
            event.run, event.grounding = run, grounding
            event.tube = _continued(event.tube, run.tube, slots[0].stamp)
            event.confirmed |= run.answers(self._on) >= self._confirmations
            if event.confirmed and self._is_over(event, slots):
                found += self._publish(event) + self._close(event)
            elif not event.confirmed and event.span.end < oldest:
                event.confirmed = self._all_agree(event)
                found += self._publish(event) + self._close(event)
            else:
                found += self._publish(event)
                kept.append(event)
        self._open = kept
        return tuple(found)

    def finish(self) -> tuple[Event, ...]:
        """End all events, since no further answer will come: the footage is at its end.

        An event on which all answers agree that saw its most probable moment is confirmed first.
        """
        for event in self._open:
            event.confirmed |= self._all_agree(event)
        return self.end(EndReason.STREAM_ENDED)

    def end(self, reason: EndReason) -> tuple[Event, ...]:
        """End the confirmed events and retract the others, since no answer may be added to them."""
        self._final_tubes.clear()
        found: list[Event] = []
        for event in self._open:
            if event.confirmed:
                found += self._publish(event) + self._close(event, reason)
            else:
                found += self._retract(event, reason)
        self._open = []
        return tuple(found)

    def reset(self) -> tuple[Event, ...]:
        """End all events as ``end`` and forget ended ones, after a stream reset."""
        ended = self.end(EndReason.STREAM_ENDED)
        self._past.clear()
        return ended

    def _runs(self, slots: Sequence[Slot]) -> list[Run]:
        """Return the runs that may be events, without what was reported as ended."""
        runs = []
        for run in find_runs(slots, self._off, self._gap):
            about = [past for past in self._past if self._is_near(run.span, past)]
            if about:
                end = max(past.end for past in about)
                if run.span.end - end <= self._gap:
                    continue
                run = Run(tuple(slot for slot in run.slots if slot.stamp > end))
            runs.append(run)
        return runs

    def _assign(
        self, runs: list[Run], oldest: int, grounding: Grounding
    ) -> list[tuple[_OpenEvent, Run | None]]:
        """Assign each run to one event at most, new events included, in order of time."""
        assigned: list[tuple[_OpenEvent, Run | None]] = []
        free = list(runs)
        # Confirmed events choose first, then those that were published first.
        for event in sorted(self._open, key=lambda e: (not e.confirmed, e.span.start)):
            near = [run for run in free if self._is_near(event.span, run.span)]
            run = max(near, key=lambda run: _overlap(event.span, run.span), default=None)
            if run is None:
                assigned.append((event, None))
                continue
            free.remove(run)
            # What lies before the evidence that is kept cannot change any more.
            start = run.span.start
            if event.span.start < oldest and run.slots[0].stamp - oldest < self._gap:
                start = event.span.start
            event.span = Span(start, run.span.end)
            assigned.append((event, run))
        for run in free:
            if run.peak.probability >= self._on:
                assigned.append((_OpenEvent(run.span, run, grounding), run))
        return sorted(assigned, key=lambda pair: pair[0].span.start)

    def _is_over(self, event: _OpenEvent, slots: Sequence[Slot]) -> bool:
        """Whether enough answers have seen that the event does not go on after the gap."""
        after = (slot for slot in slots if slot.stamp - event.span.end > self._gap)
        return any(len(slot.votes) >= self._end_answers for slot in after)

    def _all_agree(self, event: _OpenEvent) -> bool:
        """Whether all answers that saw the most probable moment of an event agree on it."""
        return all(vote.probability >= self._on for vote in event.run.peak.votes)

    def _is_near(self, a: Span, b: Span) -> bool:
        return a.start - b.end < self._gap and b.start - a.end < self._gap

    def _publish(self, event: _OpenEvent) -> list[Event]:
        """Return the event in its present state if that is news."""
        if not event.confirmed and not self._publishes_provisional:
            return []
        state = EventState.CONFIRMED if event.confirmed else EventState.PROVISIONAL
        if event.published == (state, event.span):
            return []
        return [self._record(event, state)]

    def _close(self, event: _OpenEvent, reason: EndReason = EndReason.ANSWERS) -> list[Event]:
        """End an event, or retract it if it was not confirmed."""
        if not event.confirmed:
            return self._retract(event, reason)
        self._past.append(event.span)
        ended = [self._record(event, EventState.ENDED, reason)]
        self._final_tubes.append(self._tube(event, is_final=True))
        return ended

    def _retract(self, event: _OpenEvent, reason: EndReason = EndReason.ANSWERS) -> list[Event]:
        if event.published is None:
            return []
        event.span = event.published[1]
        return [self._record(event, EventState.RETRACTED, reason)]

    def _tube(self, event: _OpenEvent, *, is_final: bool = False) -> EventTube:
        assert event.event_id is not None
        return EventTube(event.event_id, event.tube, event.run.probability, is_final)

    def _record(
        self, event: _OpenEvent, state: EventState, reason: EndReason = EndReason.NONE
    ) -> Event:
        if event.event_id is None:
            event.event_id = next(self._ids)
        event.published = state, event.span
        grounding = event.grounding
        return Event(
            query_id=self._query.id,
            event_id=event.event_id,
            text=self._query.text,
            span=event.span,
            state=state,
            confidence=event.run.probability,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
            reason=reason,
        )


def _continued(tube: BoxTube, new: BoxTube, since: int) -> BoxTube:
    """Return a tube whose boxes from a stamp (ns) on are replaced by the new ones."""
    kept = bisect_left(tube.stamps, since)
    return BoxTube(
        (tube.stamps[:kept] + new.stamps)[-MAX_TUBE_BOXES:],
        (tube.boxes[:kept] + new.boxes)[-MAX_TUBE_BOXES:],
    )


def _overlap(a: Span, b: Span) -> int:
    """Return the common time of two spans in ns; negative: the time between them."""
    return min(a.end, b.end) - max(a.start, b.start)
