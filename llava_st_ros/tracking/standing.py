"""A standing query: when it is due, and the tracks and events of its answers."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import QueryError, one_line
from llava_st_ros.query_runner import PreparedQuery
from llava_st_ros.records import (
    NANOSECONDS,
    EndReason,
    Event,
    Grounding,
    Modality,
    QueryFailure,
    QueryPace,
    Task,
    Track,
)
from llava_st_ros.streaming.frame_buffer import StreamState
from llava_st_ros.tracking.association import TrackAssociator
from llava_st_ros.tracking.events import EventTracker
from llava_st_ros.tracking.evidence import Evidence, Sighting

EVENT_TASKS = (Task.STVG, Task.TVG)  # their answers have a span
NEWEST_SHARE = 0.5  # of the newest interval in the mean interval between evaluations
EARLY_SHARE = 0.5  # of the period, until the next answer about an event that is not confirmed
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds from a failure to the next evaluation

WindowEnd = tuple[int, int]  # the generation and the newest stamp of a window


@dataclass
class _CameraState:
    tracks: TrackAssociator
    events: EventTracker
    evidence: Evidence
    generation: int | None = None  # of the stream that everything below is about
    evaluated_at: int | None = None  # the camera's newest stamp then, ns
    interval: float | None = None  # between evaluations, a moving mean, ns
    delay: int = 0  # from the newest frame of the last answer's window to the answer, ns
    answered: WindowEnd | None = None  # end of the window of the last answer
    answer: tuple[Grounding, int] | None = None  # the last one and its newest stamp
    failure: QueryFailure | None = None  # of the latest evaluation


class StandingQuery:
    """One standing query on all its cameras. Not thread-safe.

    Times are nanoseconds on the clock of the camera in question, except for the query's expiry,
    which is measured in stream time (see StreamTime), the same for all its cameras.

    Args:
        prepared: The query.
        config: Settings of tracks and events.
        track_ids: Yields track ids.
        event_ids: Yields event ids.

    Raises:
        QueryError: The query has no id.
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
        self._started_at: int | None = None
        self._cameras: dict[str, _CameraState] = {}

    def configure(self, config: GrounderConfig) -> None:
        """Change the settings of tracks and events from the next answer on."""
        self._config = config
        for camera in self._cameras.values():
            camera.tracks.configure(config)
            camera.events.configure(config)

    def start(self, elapsed: int) -> None:
        """Start the expiry timer unless it is running; ``elapsed`` is the stream time (ns)."""
        self._started_at = elapsed if self._started_at is None else self._started_at

    def is_expired(self, elapsed: int) -> bool:
        """Whether the query's expiry has passed; ``elapsed`` is the stream time (ns)."""
        expiry = self.query.expiry
        if expiry is None or self._started_at is None:
            return False
        return elapsed - self._started_at > expiry * NANOSECONDS

    def enter_stream(self, camera: str, generation: int) -> tuple[Event, ...]:
        """Forget a camera's earlier stream, if it had one; return the events that end with it.

        Stamps of two generations are not comparable: no track, event or time outlives its stream.
        """
        state = self._camera(camera)
        if state.generation == generation:
            return ()
        state.generation = generation
        state.evaluated_at = state.interval = state.answered = state.failure = None
        state.answer, state.delay = None, 0
        state.tracks.clear()
        state.evidence.clear()
        return state.events.reset()

    def is_due(self, camera: str, stream: StreamState) -> bool:
        """Whether to evaluate the query on a camera whose stream is in this state.

        It is due when its period has passed, or EARLY_SHARE of it while an event is PROVISIONAL.
        """
        state = self._camera(camera)
        if self.query.task.modality is Modality.VIDEO and not stream.has_history:
            return False
        if state.failure is not None:
            return stream.now >= state.failure.retry_at
        if state.answered == stream.end:
            return False
        if state.evaluated_at is None:
            return True
        period = self.query.period * (EARLY_SHARE if state.events.has_unconfirmed else 1.0)
        return stream.now - state.evaluated_at >= period * NANOSECONDS

    def has_unseen(self, camera: str, stream: StreamState) -> bool:
        """Whether the camera's newest frame is not in the window of the last answer."""
        return self._camera(camera).answered != stream.end

    def mark_evaluated(self, camera: str, stream: StreamState) -> None:
        """Record that the query is evaluated on a camera."""
        state = self._camera(camera)
        if state.evaluated_at is not None and state.failure is None:
            interval = stream.newest - state.evaluated_at
            last = interval if state.interval is None else state.interval
            state.interval = last + (interval - last) * NEWEST_SHARE
        state.evaluated_at = stream.newest

    def fail(self, camera: str, error: Exception, now: int) -> QueryFailure:
        """Record that the evaluation on a camera raised an exception.

        The query is evaluated again after ``FIRST_RETRY`` seconds or its period, whichever is
        longer; the time doubles with each further failure up to ``LAST_RETRY``.
        """
        state = self._camera(camera)
        count = 1 if state.failure is None else state.failure.count + 1
        first = max(FIRST_RETRY, self.query.period)
        wait = min(first * 2.0 ** min(count - 1, 10), max(first, LAST_RETRY))
        state.failure = QueryFailure(
            self.query.id,
            camera,
            one_line(error),
            count,
            now + round(wait * NANOSECONDS),
            "".join(traceback.format_exception(type(error), error, error.__traceback__)),
        )
        return state.failure

    @property
    def paces(self) -> tuple[QueryPace, ...]:
        """How often the query is evaluated on each camera where that is known."""
        return tuple(
            QueryPace(self.query.id, camera, self.query.period, state.interval / NANOSECONDS)
            for camera, state in self._cameras.items()
            if state.interval is not None and state.failure is None
        )

    @property
    def failures(self) -> tuple[QueryFailure, ...]:
        """The failure of each camera on which the latest evaluation failed."""
        return tuple(s.failure for s in self._cameras.values() if s.failure is not None)

    def update(self, grounding: Grounding, end: WindowEnd, delay: int = 0) -> tuple[Event, ...]:
        """Process an answer; return the events that changed.

        One about a stream that has ended meanwhile changes nothing. One below ``min_confidence``
        counts as "no match": in tasks without that answer, a low confidence is the only sign of it.

        Args:
            grounding: The answer.
            end: The end of its window.
            delay: The time that has passed on the stream since then (ns).
        """
        state = self._camera(grounding.camera)
        generation, newest = end
        if state.generation is not None and generation < state.generation:
            return ()
        events = self.enter_stream(grounding.camera, generation)
        state.answered, state.failure = end, None
        state.answer, state.delay = (grounding, newest), delay
        sighting = Sighting.of(grounding, self._config.min_confidence)
        if self.query.task in EVENT_TASKS:
            state.evidence.add(sighting)
            events += state.events.update(state.evidence, grounding)
            state.tracks.update_events(state.events.tubes, grounding, newest)
        else:
            state.tracks.update(sighting, grounding, newest)
        return events

    def tracks(self, camera: str, now: int) -> tuple[Track, ...]:
        """Return a camera's active tracks at a time on its clock."""
        state = self._cameras.get(camera)
        if state is None:
            return ()
        # Until the next answer of a slow model, a track is not LOST.
        interval = round(state.interval or state.delay)
        return state.tracks.tracks(now, interval, state.delay)

    def follow_streams(self, generations: Mapping[str, int]) -> tuple[Event, ...]:
        """As ``enter_stream``, for the cameras on which the query was evaluated.

        Args:
            generations: The generation of each camera's stream.
        """
        return tuple(
            event
            for camera, state in self._cameras.items()
            if state.generation is not None and camera in generations
            for event in self.enter_stream(camera, generations[camera])
        )

    def interrupt(self, camera: str, now: int, reason: EndReason) -> tuple[Event, ...]:
        """End the events of a camera and lose its tracks: nothing shows any more that they go on.

        Its stream goes on: later answers continue its tracks, and what an event shows after its end
        is a new event.

        Args:
            camera: The camera; nothing happens if the query was not evaluated on it.
            now: The time on its clock.
            reason: Why the events end.
        """
        state = self._cameras.get(camera)
        if state is None:
            return ()
        ended = self._settle(state, state.events.end(reason))
        state.tracks.lose(now)
        return ended

    def finish(self, camera: str | None = None) -> tuple[Event, ...]:
        """End the events, by default on all cameras: the footage is at its end."""
        return tuple(
            event
            for name, state in self._cameras.items()
            if camera in (None, name)
            for event in self._settle(state, state.events.finish())
        )

    def end(self, reason: EndReason) -> tuple[Event, ...]:
        """End the events on all cameras, since the query is not evaluated any more."""
        return tuple(
            event for state in self._cameras.values() for event in state.events.end(reason)
        )

    def _settle(self, state: _CameraState, ended: tuple[Event, ...]) -> tuple[Event, ...]:
        """Give the final boxes of events that have just ended to the tracks."""
        if ended:
            assert state.answer is not None
            state.tracks.update_events(state.events.tubes, *state.answer)
        return ended

    def _camera(self, name: str) -> _CameraState:
        if name not in self._cameras:
            self._cameras[name] = _CameraState(
                TrackAssociator(self.query, self._track_ids, self._config),
                EventTracker(self.query, self._event_ids, self._config),
                Evidence(self._config.stream.window_seconds),
            )
        return self._cameras[name]
