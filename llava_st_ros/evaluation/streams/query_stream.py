"""What was published about one query on one camera, by stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.records import Event, Grounding, QueryFailure, Tick, Track


@dataclass(frozen=True)
class QueryTick:
    """The part of a published tick that concerns one query on one camera.

    Attributes:
        at: As in ``PublishedTick``.
        tracks: The query's active tracks.
        events: The query's events that changed.
        answers: The query's new answers.
        failures: Of its evaluations that raised an exception.
    """

    at: int
    tracks: tuple[Track, ...]
    events: tuple[Event, ...]
    answers: tuple[Grounding, ...]
    failures: tuple[QueryFailure, ...]


@dataclass(frozen=True)
class QueryStream:
    """One stream of a camera, between two jumps of its clock, and what was published about a query.

    Attributes:
        stamps: The stamps of the camera's frames (ns), in increasing order, each once.
        ticks: In order of ``at``.
    """

    stamps: tuple[int, ...]
    ticks: tuple[QueryTick, ...]
    _times: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_times", tuple(tick.at for tick in self.ticks))

    def latest(self, time: int) -> QueryTick | None:
        """Return the last tick that was published by a time (ns); None if there is none."""
        index = bisect_right(self._times, time)
        return self.ticks[index - 1] if index else None


def query_streams(
    published: Sequence[PublishedTick],
    query_id: str,
    stamps: Mapping[int, Sequence[int]],
    camera: str | None = None,
) -> tuple[QueryStream, ...]:
    """Select what was published about a query, by stream.

    Args:
        published: What was published, in order of publication.
        query_id: The query's id.
        stamps: The stamps of the camera's frames (ns) by the number of their stream.
        camera: The camera's name in the published records; None if there is only one camera.

    Returns:
        One per entry of ``stamps``, in its order. Ticks of other streams are left out.

    Raises:
        ValueError: No camera is named and there are several.
    """
    if camera is None:
        cameras = {record.camera for item in published for record in _records(item.tick, query_id)}
        if len(cameras) > 1:
            raise ValueError(f"the query was answered on {', '.join(sorted(cameras))}; name one")
    ticks: dict[int, list[QueryTick]] = {number: [] for number in stamps}
    for item in published:
        if item.stream in ticks:
            ticks[item.stream].append(_query_tick(item, query_id, camera))
    return tuple(
        QueryStream(
            tuple(sorted(set(stamps[number]))), tuple(sorted(found, key=lambda tick: tick.at))
        )
        for number, found in ticks.items()
    )


def _query_tick(item: PublishedTick, query_id: str, camera: str | None) -> QueryTick:
    tick = item.tick
    found = [r for r in _records(tick, query_id) if camera in (None, r.camera)]
    return QueryTick(
        item.at,
        tuple(record for record in found if isinstance(record, Track)),
        tuple(record for record in found if isinstance(record, Event)),
        tuple(record for record in found if isinstance(record, Grounding)),
        tuple(record for record in found if isinstance(record, QueryFailure)),
    )


def _records(tick: Tick, query_id: str) -> list[Track | Event | Grounding | QueryFailure]:
    """Return what a tick contains about a query."""
    return [
        *(track for track in tick.tracks if track.query_id == query_id),
        *(event for event in tick.events if event.query_id == query_id),
        *(answer for answer in tick.groundings if answer.query.id == query_id),
        *(failure for failure in tick.failures if failure.query_id == query_id),
    ]
