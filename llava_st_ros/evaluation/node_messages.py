"""The messages of a running node as records and published ticks, in header time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    EndReason,
    Event,
    EventState,
    Grounding,
    Query,
    Span,
    Task,
    Tick,
    Track,
    TrackState,
)


@dataclass(frozen=True)
class Publication:
    """One message of the node.

    Attributes:
        time: When it was published (ns, system clock).
        content: An answer, an event, or all active tracks.
    """

    time: int
    content: Grounding | Event | tuple[Track, ...]


def published_ticks(
    publications: Sequence[Publication], sent: Mapping[int, int]
) -> list[PublishedTick]:
    """Return the ticks of a node that has one camera.

    For each tick the node publishes answers, then events, then all active tracks. A message counts
    from the header time at which it was published: the stamp of the newest frame that had been
    sent, plus the time since then. It never runs back, although a frame may be sent late.

    Args:
        publications: The messages, in any order of topics.
        sent: When each frame was sent (ns, system clock), by its stamp.
    """
    frames = sorted((time, stamp) for stamp, time in sent.items())
    times = [time for time, _ in frames]
    ticks: list[PublishedTick] = []
    answers: list[Grounding] = []
    events: list[Event] = []
    tracks: tuple[Track, ...] = ()

    def add(time: int) -> None:
        since, stamp = frames[max(0, bisect_right(times, time) - 1)]
        tick = Tick(tuple(answers), tracks, tuple(events))
        at = max(stamp + time - since, ticks[-1].at if ticks else 0)
        ticks.append(PublishedTick(at, tick))
        answers.clear()
        events.clear()

    for publication in sorted(publications, key=lambda item: item.time) if frames else ():
        content = publication.content
        if isinstance(content, Grounding):
            answers.append(content)
        elif isinstance(content, Event):
            events.append(content)
        else:
            tracks = content
            add(publication.time)
    if answers or events:
        add(max(publication.time for publication in publications))
    return ticks


def to_track(entry: dict[str, Any]) -> Track:
    """Convert a collector's track, with boxes in pixels, to a record with boxes in [0, 1]."""
    return Track(
        query_id=entry["query_id"],
        track_id=entry["track_id"],
        label=entry["label"],
        tube=_tube(entry),
        state=TrackState(entry["state"]),
        confidence=entry["confidence"],
        camera=entry["camera"],
        frame_id=entry["frame_id"],
        width=entry["image_width"],
        height=entry["image_height"],
        propagated_from=entry["propagated_from"],
    )


def to_grounding(message: dict[str, Any]) -> Grounding:
    """Convert a collector's answer, of which it has the first and last stamp of the window."""
    task = Task(message["task"])
    return Grounding(
        query=Query(message["query_id"], message["query"], task),
        answer=Answer(
            task,
            message["text"],
            no_match=message["no_match"],
            problems=tuple(message["problems"]),
        ),
        window=tuple(message["window"]),
        span=Span(*message["span"]) if message["span"] else None,
        tube=_tube(message),
        confidence=message["confidence"],
        camera=message["camera"],
        frame_id=message["frame_id"],
        width=message["image_width"],
        height=message["image_height"],
        match_probability=message["match_probability"],
    )


def _tube(entry: dict[str, Any]) -> BoxTube:
    width, height = entry["image_width"], entry["image_height"]
    boxes = tuple(
        Box.from_pixels((x1, y1, x2, y2), width, height) for _, x1, y1, x2, y2 in entry["tube"]
    )
    return BoxTube(tuple(row[0] for row in entry["tube"]), boxes)


def to_event(message: dict[str, Any]) -> Event:
    """Convert a collector's event to a record."""
    return Event(
        query_id=message["query_id"],
        event_id=message["event_id"],
        text=message["text"],
        span=Span(message["start"], message["end"]),
        state=EventState(message["state"]),
        confidence=message["confidence"],
        camera=message["camera"],
        frame_id=message["frame_id"],
        reason=EndReason(message["reason"]),
    )
