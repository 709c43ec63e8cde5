"""What was published about a query, and when: the basis of delays, false events and silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llava_st_ros.evaluation.streams.query_stream import QueryStream, QueryTick
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.records import NANOSECONDS, EventState, Span, Task, TrackState
from llava_st_ros.tracking.standing import EVENT_TASKS


@dataclass(frozen=True)
class Claim:
    """The statement that something happens or is visible.

    Attributes:
        id: Of the event or track.
        at: When it was published (ns).
        start: First stamp that the statement is about (ns).
        end: Last stamp that the statement is about (ns).
    """

    id: int
    at: int
    start: int
    end: int


def event_claims(tick: QueryTick) -> Iterator[Claim]:
    """Return a claim for each event of a tick that is confirmed: its span."""
    for event in tick.events:
        if event.state in (EventState.CONFIRMED, EventState.ENDED):
            yield Claim(event.event_id, tick.at, event.span.start, event.span.end)


def track_claims(tick: QueryTick) -> Iterator[Claim]:
    """Return a claim for each track of a tick that is not LOST: the stamp of its current box."""
    for track in tick.tracks:
        if track.state is not TrackState.LOST:
            yield Claim(track.track_id, tick.at, track.stamp, track.stamp)


def claims(stream: QueryStream, task: Task) -> list[Claim]:
    """Return the claims of a stream in order of publication.

    They are the events of tasks that have events, and the tracks of the others.
    """
    of_tick = event_claims if task in EVENT_TASKS else track_claims
    return [claim for tick in stream.ticks for claim in of_tick(tick)]


def detection_delays(spans: Sequence[Span], made: Sequence[Claim]) -> list[float | None]:
    """Return how long after its start each span was first claimed, in seconds; None if never.

        delay = min over claims that overlap the span of (at - span.start)

    Args:
        spans: The annotated spans.
        made: The claims.

    >>> second = NANOSECONDS
    >>> spans = [Span(2 * second, 5 * second), Span(8 * second, 9 * second)]
    >>> detection_delays(spans, [Claim(1, 4 * second, 3 * second, 4 * second)])
    [2.0, None]
    """
    delays: list[float | None] = []
    for span in spans:
        times = [c.at for c in made if c.start <= span.end and span.start <= c.end]
        delays.append((min(times) - span.start) / NANOSECONDS if times else None)
    return delays


def false_claims(truth: QueryTruth, made: Sequence[Claim]) -> set[int]:
    """Return the ids of the events or tracks of which no claim overlaps an annotated span."""
    right = {claim.id for claim in made if truth.overlaps(claim.start, claim.end)}
    return {claim.id for claim in made} - right


def provisional_claims(stream: QueryStream) -> list[Claim]:
    """Return the claims of a stream's events while they are PROVISIONAL, in order."""
    return [
        Claim(event.event_id, tick.at, event.span.start, event.span.end)
        for tick in stream.ticks
        for event in tick.events
        if event.state is EventState.PROVISIONAL
    ]


def retractions(stream: QueryStream) -> tuple[int, int]:
    """Return how many events of a stream were retracted, and how many were published."""
    states = {event.event_id: event.state for tick in stream.ticks for event in tick.events}
    return sum(state is EventState.RETRACTED for state in states.values()), len(states)


def contradictions(stream: QueryStream) -> tuple[int, int]:
    """Return how many CONFIRMED events of a stream were retracted, and how many there are."""
    confirmed, retracted = set(), set()
    for tick in stream.ticks:
        for event in tick.events:
            if event.state is EventState.RETRACTED:
                retracted.add(event.event_id)
            elif event.state is not EventState.PROVISIONAL:
                confirmed.add(event.event_id)
    return len(confirmed & retracted), len(confirmed)


def first_claims(made: Sequence[Claim]) -> list[int]:
    """Return when each event or track was first published (ns), in order."""
    first: dict[int, int] = {}
    for claim in made:
        first[claim.id] = min(claim.at, first.get(claim.id, claim.at))
    return sorted(first.values())


def silent_ticks(truth: QueryTruth, stream: QueryStream) -> tuple[int, int]:
    """Return how many ticks outside the spans are silent, and how many there are.

    A tick is silent if it publishes no event that overlaps no span, and no track whose current box
    is outside the spans. What is published late, but is right, does not break the silence.
    """
    silent = ticks = 0
    for tick in stream.ticks:
        if truth.is_active(tick.at):
            continue
        ticks += 1
        made = [*event_claims(tick), *track_claims(tick)]
        silent += all(truth.overlaps(claim.start, claim.end) for claim in made)
    return silent, ticks
