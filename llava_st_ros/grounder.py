"""Frames and questions in, groundings, tracks and events out. Knows nothing of ROS."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import ConfigError, FrameError, QueryError
from llava_st_ros.fair_lock import FairLock
from llava_st_ros.query_runner import PreparedQuery, QueryRunner
from llava_st_ros.records import NANOSECONDS, Event, Frame, Grounding, Modality, Query, Tick
from llava_st_ros.streaming.frame_buffer import FrameBuffer, StreamCounts
from llava_st_ros.streaming.view import CameraView
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.tracking.standing import StandingQuery


class Grounder:
    """One model, many cameras, many standing queries.

    ``push``, ``add_query``, ``remove_query``, ``queries``, ``cameras`` and ``counts`` may be used
    from any thread at any time and never wait for the model; ``tick`` belongs to one thread;
    ``ask`` may be called from others and waits its turn, one answer long. Times are nanoseconds of
    the stamps' clock.
    """

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer, config: GrounderConfig | None = None
    ) -> None:
        self._backend = backend
        self._config = config or GrounderConfig()
        self._runner = QueryRunner(backend, tokenizer, self._config)
        self._num_frames = backend.describe().model.num_frames
        # Cameras, standing queries and what follows them. Reentrant: ``cancelled`` is the caller's
        # code and may look at the queries.
        self._state_lock = threading.RLock()
        self._model_lock = FairLock()  # one answer at a time
        self._buffers: dict[str, FrameBuffer] = {}
        self._standing: dict[str, StandingQuery] = {}
        self._events: list[Event] = []  # to be told by the tick that comes or runs
        self._clock: int | None = None
        self._track_ids = itertools.count()
        self._event_ids = itertools.count()

    @property
    def queries(self) -> tuple[Query, ...]:
        """The standing queries, in the order in which they were added."""
        with self._state_lock:
            return tuple(standing.query for standing in self._standing.values())

    @property
    def cameras(self) -> tuple[str, ...]:
        """Every camera that a frame came from."""
        with self._state_lock:
            return tuple(self._buffers)

    def counts(self, camera: str) -> StreamCounts:
        """What came from a camera; zeros for one that sent nothing."""
        with self._state_lock:
            buffer = self._buffers.get(camera)
        return buffer.counts if buffer else StreamCounts()

    def push(self, frame: Frame) -> None:
        """Take a frame; its image is kept by reference and must not be written to."""
        with self._state_lock:
            buffer = self._buffers.get(frame.camera)
            if buffer is None:
                buffer = FrameBuffer(self._config.stream, self._num_frames)
                self._buffers[frame.camera] = buffer
        buffer.push(frame)

    def add_query(self, query: Query) -> None:
        """Let a query stand. Raises QueryError where it cannot be asked.

        A query equal to the standing one of its id changes nothing; a different one takes its
        place, and with it tracks and events begin anew.
        """
        prepared = self._runner.prepare(query, self._config.no_match_threshold)
        with self._state_lock:
            standing = self._stand(prepared)
            old = self._standing.get(query.id)
            if old is not None and old.query == query:
                return
            self._remove(query.id)
            self._standing[query.id] = standing

    def remove_query(self, query_id: str) -> None:
        """Forget a standing query; its events end at the next tick. QueryError if unknown."""
        with self._state_lock:
            if not self._remove(query_id):
                known = ", ".join(sorted(self._standing)) or "none stands"
                raise QueryError(f"no standing query {query_id!r}; expected one of: {known}")

    def configure(self, config: GrounderConfig) -> None:
        """Change how answers become tracks and events, from the next answer on.

        Raises ConfigError where the stream or the decoding would change: these are settled when
        the Grounder is made.
        """
        settled = ("stream", "max_new_tokens", "constrained", "no_match_threshold")
        with self._state_lock:
            changed = [n for n in settled if getattr(config, n) != getattr(self._config, n)]
            if changed:
                raise ConfigError(
                    f"another {', '.join(changed)} for a running Grounder"
                    "; only min_confidence, association_iou, track_timeout_seconds and "
                    "event_gap_seconds can change",
                    "make a new Grounder",
                )
            self._config = config
            for standing in self._standing.values():
                standing.configure(config)

    def reset(self) -> None:
        """Forget frames, tracks and events; standing queries stay and are due at once."""
        with self._state_lock:
            self._buffers.clear()
            for query_id, old in self._standing.items():
                self._standing[query_id] = self._stand(old.prepared)
            self._events.clear()
            self._clock = None

    def ask(
        self,
        query: Query,
        *,
        camera: str | None = None,
        now: int | None = None,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Grounding:
        """Answer one question now, on frames stamped up to ``now`` where it is given.

        ``camera`` defaults to that of the query's cameras (or of all) which has the newest frame.
        Raises QueryError where the question cannot be asked, FrameError where no frame has come.
        """
        prepared = self._runner.prepare(query)
        wanted = (camera,) if camera is not None else query.cameras
        with self._state_lock:
            buffers = {
                name: buffer
                for name, buffer in self._buffers.items()
                if (not wanted or name in wanted) and buffer.latest(now) is not None
            }
        grounding = None
        if buffers:
            name = max(buffers, key=lambda n: buffers[n].newest or 0)
            with self._model_lock:
                view = CameraView(self._backend, buffers[name], now)
                grounding = self._runner.ask(prepared, view, on_token=on_token, cancelled=cancelled)
        if grounding is None:
            raise FrameError(
                (
                    f"no frame yet from {_named(wanted)}"
                    + ("" if now is None else f" up to {now} ns")
                )
                + "; expected "
                + ("a camera that has sent frames" + _having(self.cameras)),
                "check the camera's name, its topic and that it publishes",
            )
        return grounding

    def tick(self, now: int, cancelled: Callable[[], bool] | None = None) -> Tick:
        """Answer every standing query that is due, on each of its cameras with new frames.

        A query is due when its period has passed since it was last asked, and removed when its
        expiry has passed since its first tick. Returns the new answers, all living tracks and the
        events that changed. An answer whose query was removed or replaced meanwhile is dropped.
        """
        with self._state_lock:
            self._set_clock(now)
            for query_id in [s.query.id for s in self._standing.values() if s.expired(now)]:
                self._remove(query_id)
            work = [
                (standing, camera)
                for standing in self._standing.values()
                for camera in standing.query.cameras or tuple(self._buffers)
                if camera in self._buffers
            ]
        views: dict[str, CameraView] = {}
        groundings: list[Grounding] = []
        for standing, camera in work:
            if cancelled is not None and cancelled():
                break
            with self._model_lock:
                grounding = self._answer(standing, camera, now, views, cancelled)
            if grounding is not None:
                groundings.append(grounding)
        with self._state_lock:
            events, self._events = self._events, []
            tracks = (track for s in self._standing.values() for track in s.tracks(now))
            return Tick(tuple(groundings), tuple(tracks), tuple(events))

    def _answer(
        self,
        standing: StandingQuery,
        camera: str,
        now: int,
        views: dict[str, CameraView],
        cancelled: Callable[[], bool] | None,
    ) -> Grounding | None:
        def is_stale() -> bool:
            return not self._stands(standing) or (cancelled is not None and cancelled())

        with self._state_lock:
            buffer = self._buffers.get(camera)
            newest = buffer.newest if buffer is not None else None
            if buffer is None or newest is None or is_stale():
                return None
            if standing.query.task.modality is Modality.VIDEO and not buffer.has_history:
                return None
            if not standing.due(camera, (buffer.generation, newest), now):
                return None
            standing.ask(camera, now)
        view = views.setdefault(camera, CameraView(self._backend, buffer))
        grounding = self._runner.ask(standing.prepared, view, cancelled=is_stale)
        window = view.window(standing.query.task.modality)
        with self._state_lock:
            if grounding is None or window is None or is_stale():
                return None
            seen = (window.generation, window.newest.stamp)
            self._events.extend(standing.answer(grounding, seen, now))
            return grounding

    def _stand(self, prepared: PreparedQuery) -> StandingQuery:
        return StandingQuery(prepared, self._config, self._track_ids, self._event_ids)

    def _stands(self, standing: StandingQuery) -> bool:
        return self._standing.get(standing.query.id) is standing

    def _remove(self, query_id: str) -> bool:
        standing = self._standing.pop(query_id, None)
        if standing is not None:
            self._events.extend(standing.end())
        return standing is not None

    def _set_clock(self, now: int) -> None:
        reset_after = self._config.stream.reset_seconds * NANOSECONDS
        back = self._clock is not None and self._clock - now > reset_after
        self._clock = now
        for standing in self._standing.values():
            if back:  # a bag restarted, simulated time set back
                standing.rewind()
            standing.start(now)


def _named(cameras: tuple[str, ...]) -> str:
    if not cameras:
        return "any camera"
    return "camera " + " or ".join(repr(camera) for camera in cameras)


def _having(cameras: tuple[str, ...]) -> str:
    return f" (frames came from: {', '.join(sorted(cameras))})" if cameras else ""
