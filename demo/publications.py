"""The messages of the node as published ticks, in header time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.records import Event, Grounding, Tick, Track


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
