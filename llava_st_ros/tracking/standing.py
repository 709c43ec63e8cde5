"""A standing query: when it is due, and the tracks and events that its answers make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import QueryError
from llava_st_ros.query_runner import PreparedQuery
from llava_st_ros.records import (
    NANOSECONDS,
    BoxTube,
    Event,
    Grounding,
    Task,
    Track,
)
from llava_st_ros.tracking.association import TrackAssociator
from llava_st_ros.tracking.events import EventTracker

# Their answers say by themselves when something happened.
EVENT_TASKS = (Task.STVG, Task.TVG)

Seen = tuple[int, int]  # a stream's generation and the newest stamp of a window of it


@dataclass
class _Camera:
    tracks: TrackAssociator
    events: EventTracker
    asked: int | None = None  # the clock, ns
    seen: Seen | None = None  # by the last answer


class StandingQuery:
    """One standing query over all its cameras. Not thread-safe.

    ``now`` is the grounder's clock in ns, of which only differences count. Raises QueryError for a
    period or expiry that is no positive number of seconds, or an empty id.
    """

    def __init__(
        self,
        prepared: PreparedQuery,
        config: GrounderConfig,
        track_ids: Iterator[int],
        event_ids: Iterator[int],
    ) -> None:
        if not prepared.query.id:
            raise QueryError("a standing query needs an id")
        self.prepared = prepared
        self.query = prepared.query
        self._config = config
        self._track_ids = track_ids
        self._event_ids = event_ids
        self._since: int | None = None
        self._cameras: dict[str, _Camera] = {}

    def configure(self, config: GrounderConfig) -> None:
        """Take other settings of tracks and events from the next answer on."""
        self._config = config
        for at in self._cameras.values():
            at.tracks.configure(config)
            at.events.configure(config.event_gap_seconds)

    def start(self, now: int) -> None:
        """Count the expiry from ``now``, unless it runs already."""
        self._since = now if self._since is None else self._since

    def expired(self, now: int) -> bool:
        expiry = self.query.expiry
        if expiry is None or self._since is None:
            return False
        return now - self._since > expiry * NANOSECONDS

    def due(self, camera: str, seen: Seen, now: int) -> bool:
        """Whether to ask about a camera whose stream now stands at ``seen``."""
        at = self._camera(camera)
        if at.seen == seen:
            return False
        return at.asked is None or now - at.asked >= self.query.period * NANOSECONDS

    def ask(self, camera: str, now: int) -> None:
        """Note that it is being asked."""
        self._camera(camera).asked = now

    def answer(self, grounding: Grounding, seen: Seen, now: int) -> tuple[Event, ...]:
        """Take an answer; returns the events that changed.

        One below ``min_confidence`` counts as one that has found nothing.
        """
        at = self._camera(grounding.camera)
        events: tuple[Event, ...] = ()
        if at.seen is not None and at.seen[0] != seen[0]:
            events = at.events.restart()
            at.tracks.clear()
        at.seen = seen
        if grounding.confidence < self._config.min_confidence:
            # Some tasks leave the model no words for "not there": being unsure is how it says so.
            grounding = replace(grounding, span=None, tube=BoxTube())
        at.tracks.update(grounding, now)
        if self.query.task in EVENT_TASKS:
            events += at.events.update(grounding)
        return events

    def tracks(self, now: int) -> tuple[Track, ...]:
        """Every living track, those of a camera together."""
        return tuple(track for at in self._cameras.values() for track in at.tracks.tracks(now))

    def end(self) -> tuple[Event, ...]:
        """End the living events: the query is removed."""
        return tuple(event for at in self._cameras.values() for event in at.events.end())

    def rewind(self) -> None:
        """The clock jumped back: whatever it dated begins anew."""
        self._since = None
        for at in self._cameras.values():
            at.asked = None
            at.tracks.clear()

    def _camera(self, name: str) -> _Camera:
        if name not in self._cameras:
            self._cameras[name] = _Camera(
                TrackAssociator(self.query, self._track_ids, self._config),
                EventTracker(self.query, self._event_ids, self._config.event_gap_seconds),
            )
        return self._cameras[name]
