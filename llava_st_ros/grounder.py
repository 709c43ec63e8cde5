"""The grounder: frames and queries in, groundings, tracks and events out. Independent of ROS."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import ConfigError, FrameError, QueryError
from llava_st_ros.fair_lock import FairLock
from llava_st_ros.query_runner import PreparedQuery, QueryRunner
from llava_st_ros.records import (
    EndReason,
    Event,
    Frame,
    Grounding,
    Query,
    QueryFailure,
    QueryPace,
    Tick,
    Track,
)
from llava_st_ros.streaming.frame_buffer import (
    FrameBuffer,
    StreamCounts,
    StreamReport,
    StreamState,
)
from llava_st_ros.streaming.stream_time import StreamTime
from llava_st_ros.streaming.view import CameraView
from llava_st_ros.text.grammar import EVEN_ODDS
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.tracking.propagation import CameraPropagation, PropagationCounts
from llava_st_ros.tracking.standing import StandingQuery


@dataclass(frozen=True)
class Evaluations:
    """What the evaluation of the standing queries that were due has given.

    Attributes:
        groundings: As in ``Tick``.
        failures: As in ``Tick``.
    """

    groundings: tuple[Grounding, ...] = ()
    failures: tuple[QueryFailure, ...] = ()


class _TickView(NamedTuple):
    """A view of one tick, and how often the model had hung when it was made."""

    view: CameraView
    hangs: int


class Grounder:
    """Evaluates standing and one-shot queries on the streams of several cameras with one model.

    Thread safety: ``push``, ``propagate``, ``add_query``, ``remove_query``, ``counts`` and the
    properties can be used from any thread and do not wait for the model; so can ``set_silence``,
    ``set_hung``, ``stop`` and ``collect``. ``tick``, ``evaluate`` and ``finish`` must be called
    from one thread only. ``ask`` can be called from any thread and waits for at most the answers in
    progress and those requested earlier.

    Time is that of the stamps, in nanoseconds, and each camera has its own clock (see StreamTime):
    queries are due, tracks end and events begin by the stamps of their camera, so that a camera
    whose clock is wrong or jumps affects no other.

    Args:
        backend: The model, from ``load_backend``.
        tokenizer: The model's tokenizer, from ``load_backend``.
        config: The settings; defaults if omitted.
        runner: Runs single queries; by default on the backend.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        config: GrounderConfig | None = None,
        runner: QueryRunner | None = None,
    ) -> None:
        self._backend = backend
        self._config = config or GrounderConfig()
        self._runner = runner or QueryRunner(backend, tokenizer, self._config)
        model = backend.describe().model
        self._num_frames, self._calibration = model.num_frames, model.calibration.standing
        # Guards the fields below. Reentrant: the caller's ``cancelled`` may read the queries.
        self._state_lock = threading.RLock()
        self._model_lock = FairLock()  # held for one answer
        self._buffers: dict[str, FrameBuffer] = {}
        self._standing: dict[str, StandingQuery] = {}
        self._events: list[Event] = []  # to be returned by the current or next tick
        self._time = StreamTime()
        self._silences: dict[str, int] = {}  # of silent cameras, ns
        self._hangs = 0  # how often the model was reported as hung
        self._arrival_order: dict[str, None] = {}  # the camera of the latest frame is the last one
        self._propagations: dict[str, CameraPropagation] = {}
        self._track_ids = itertools.count()
        self._event_ids = itertools.count()

    @property
    def config(self) -> GrounderConfig:
        with self._state_lock:
            return self._config

    @property
    def queries(self) -> tuple[Query, ...]:
        """The standing queries in the order in which they were added."""
        with self._state_lock:
            return tuple(standing.query for standing in self._standing.values())

    @property
    def failures(self) -> tuple[QueryFailure, ...]:
        """The standing queries whose latest evaluation failed, one entry per camera."""
        with self._state_lock:
            return tuple(f for standing in self._standing.values() for f in standing.failures)

    @property
    def paces(self) -> tuple[QueryPace, ...]:
        """How often each standing query is evaluated, one entry per camera."""
        with self._state_lock:
            return tuple(pace for standing in self._standing.values() for pace in standing.paces)

    @property
    def newest(self) -> dict[str, int]:
        """The newest stamp (ns) of each camera that has sent frames."""
        with self._state_lock:
            buffers = dict(self._buffers)
        return {name: s for name, buffer in buffers.items() if (s := buffer.newest) is not None}

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that have sent frames."""
        with self._state_lock:
            return tuple(self._buffers)

    def counts(self, camera: str) -> StreamCounts:
        """Return a camera's frame counts; zeros if it has sent no frame."""
        with self._state_lock:
            buffer = self._buffers.get(camera)
        return buffer.counts if buffer else StreamCounts()

    def stream_report(self, camera: str) -> StreamReport:
        """Return a camera's frame counts, the jumps of its clock and its last implausible stamp."""
        with self._state_lock:
            buffer = self._buffers.get(camera)
        return buffer.report if buffer else StreamReport()

    def push(self, frame: Frame) -> bool:
        """Add a frame. Its image is kept by reference and must not be modified.

        Returns:
            Whether the camera has a new newest frame: not if the frame is late, or is held because
            its stamp is implausible.
        """
        with self._state_lock:
            buffer = self._buffers.get(frame.camera)
            if buffer is None:
                buffer = FrameBuffer(self._config.stream, self._num_frames)
                self._buffers[frame.camera] = buffer
        is_newest = buffer.push(frame)
        if is_newest:
            with self._state_lock:
                self._arrival_order.pop(frame.camera, None)
                self._arrival_order[frame.camera] = None
                self._silences.pop(frame.camera, None)
        return is_newest

    def set_silence(self, camera: str, duration: int) -> None:
        """Report that a camera has sent no image for some time; call again as time goes on.

        Its events end and its tracks are LOST, and then end, as if its stamps had advanced by the
        duration. Its next frame ends the silence, and its stream goes on.

        Args:
            camera: The camera; nothing happens if it has never sent a frame.
            duration: How long the silence has lasted (ns).
        """
        with self._state_lock:
            stream = self._buffers[camera].state if camera in self._buffers else None
            if stream is None:
                return
            is_new = camera not in self._silences
            self._silences[camera] = duration
            if is_new:
                now = self._advance(None)[camera].now
                for standing in self._standing.values():
                    self._events.extend(standing.interrupt(camera, now, EndReason.CAMERA_SILENT))

    def set_hung(self) -> None:
        """Report that the model hangs; call it again while it does.

        On all cameras events end and tracks are LOST. When the running evaluation ends after all,
        its answer is about the time before: it opens no event and revives no track. Later ones do.
        """
        with self._state_lock:
            self._hangs += 1
            for camera, stream in self._advance(None).items():
                for standing in self._standing.values():
                    ended = standing.interrupt(camera, stream.now, EndReason.MODEL_HANGS)
                    self._events.extend(ended)

    def propagate(self, frame: Frame) -> tuple[Track, ...] | None:
        """Carry the tracks of a frame's camera to the frame (see ``CameraPropagation``).

        From the first call on, the tracks of each tick are carried to the newest frame given here,
        too. Frames may be given that are not pushed, and should be given if they are. Their images
        are not kept.

        Returns:
            The camera's tracks as of the last tick, in the frame; None if the frame is not the
            newest, or its stamp is implausible.
        """
        with self._state_lock:
            propagation = self._propagations.get(frame.camera)
            if propagation is None:
                propagation = CameraPropagation(self._config.stream.reset_seconds)
                self._propagations[frame.camera] = propagation
        return propagation.add(frame)

    def carried(self, tracks: Sequence[Track]) -> tuple[Track, ...]:
        """Return tracks of the last tick in the newest frames given to ``propagate``."""
        with self._state_lock:
            propagations = tuple(self._propagations.values())
        newest = {t.track_id: t for p in propagations for t in p.tracks}
        return tuple(newest.get(track.track_id, track) for track in tracks)

    def stop_propagation(self, camera: str | None = None) -> None:
        """Forget the frames given to ``propagate``: tracks are again those of the answers.

        Args:
            camera: The camera; by default all of them.
        """
        with self._state_lock:
            for name in [camera] if camera is not None else list(self._propagations):
                self._propagations.pop(name, None)

    def is_propagating(self, camera: str) -> bool:
        """Whether a track of the camera is being carried from frame to frame."""
        with self._state_lock:
            propagation = self._propagations.get(camera)
        return propagation is not None and propagation.has_tracks

    def propagation_counts(self, camera: str) -> PropagationCounts:
        """Return the counts of a camera's propagation; zeros if there is none."""
        with self._state_lock:
            propagation = self._propagations.get(camera)
        return PropagationCounts() if propagation is None else propagation.counts

    def add_query(self, query: Query) -> None:
        """Add a standing query, or replace the one with its id.

        A replaced query's tracks are dropped and its events end. Adding an equal query again
        changes nothing.

        Raises:
            QueryError: The query has no id, lacks an input that its task needs, is too long for
                the model, or is one more than ``GrounderConfig.max_queries``.
        """
        with self._state_lock:
            self._check_count(query)  # before the work of preparing it
        config = self._config
        prepared = self._runner.prepare(
            query, config.no_match_threshold, config.evidence_floor, self._calibration
        )
        with self._state_lock:
            standing = self._make_standing(prepared)
            old = self._standing.get(query.id)
            if old is not None and old.query == query:
                return
            self._check_count(query)
            self._remove(query.id, EndReason.QUERY_REPLACED)
            self._standing[query.id] = standing

    def _check_count(self, query: Query) -> None:
        count, limit = len(self._standing), self._config.max_queries
        if query.id not in self._standing and count >= limit:
            raise QueryError(
                f"there are {count} standing queries; max_queries is {limit}",
                "remove one, or raise max_queries",
            )

    def remove_query(self, query_id: str) -> None:
        """Remove a standing query; its events end at the next tick.

        Raises:
            QueryError: There is no standing query of this id.
        """
        with self._state_lock:
            if not self._remove(query_id, EndReason.QUERY_REMOVED):
                known = ", ".join(sorted(self._standing))
                expected = f"expected one of: {known}" if known else "there are none"
                raise QueryError(f"no standing query {query_id!r}; {expected}")

    def configure(self, config: GrounderConfig) -> None:
        """Change the settings of tracks and events from the next answer on.

        Raises:
            ConfigError: A setting of the stream or of decoding differs; these cannot change.
        """
        fixed = (
            "stream",
            "max_new_tokens",
            "constrained",
            "no_match_threshold",
            "evidence_floor",
        )
        with self._state_lock:
            changed = [n for n in fixed if getattr(config, n) != getattr(self._config, n)]
            if changed:
                live = [f.name for f in fields(config) if f.name not in fixed]
                raise ConfigError(
                    f"a Grounder's {', '.join(changed)} cannot change; only {', '.join(live)} can",
                    "create a new Grounder",
                )
            self._config = config
            for standing in self._standing.values():
                standing.configure(config)

    def reset(self) -> None:
        """Drop all frames, tracks and events; standing queries are kept and due immediately."""
        with self._state_lock:
            self._buffers.clear()
            for query_id, old in self._standing.items():
                self._standing[query_id] = self._make_standing(old.prepared)
            self._events.clear()
            self._time = StreamTime()
            self._silences.clear()
            self._arrival_order.clear()
            self._propagations.clear()

    def stop(self, reason: EndReason) -> None:
        """End all events and drop all tracks; standing queries are kept.

        ``collect`` returns the events that have ended. Answers of a running tick are dropped.
        """
        with self._state_lock:
            for query_id, old in self._standing.items():
                self._events.extend(old.end(reason))
                self._standing[query_id] = self._make_standing(old.prepared)

    def ask(
        self,
        query: Query,
        *,
        camera: str | None = None,
        now: int | None = None,
        no_match_threshold: float = EVEN_ODDS,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Grounding:
        """Answer a one-shot query.

        Args:
            query: The query; its period, expiry and id are not used.
            camera: The camera; by default the one of ``query.cameras`` (or of all) whose newest
                frame arrived last.
            now: Ignore frames stamped later than this (ns).
            no_match_threshold: As in ``text.grammar.Grammar``.
            on_token: Called with each generated id.
            cancelled: Called before each frame of a window is encoded and before each decoding
                step; True ends the answer early.

        Raises:
            QueryError: The query lacks an input that its task needs.
            FrameError: There is no frame from the camera.
            CancelledError: It was cancelled before the first decoding step (concurrent.futures).
        """
        prepared = self._runner.prepare(query, no_match_threshold)
        cameras = (camera,) if camera is not None else query.cameras
        with self._state_lock:
            latest_first = (
                self._buffers[name]
                for name in reversed(self._arrival_order)
                if (not cameras or name in cameras) and name in self._buffers
            )
            buffer = next((b for b in latest_first if b.latest(now) is not None), None)
        grounding = None
        if buffer is not None:
            with self._model_lock:
                view = CameraView(self._backend, buffer, now)
                grounding = self._runner.run(prepared, view, on_token=on_token, cancelled=cancelled)
                if grounding is None and cancelled is not None and cancelled():
                    raise CancelledError
        if grounding is None:
            raise self._no_frame(cameras, now)
        return grounding

    def _no_frame(self, cameras: tuple[str, ...], now: int | None) -> FrameError:
        source = "camera " + " or ".join(map(repr, cameras)) if cameras else "any camera"
        until = "" if now is None else f" up to {now} ns"
        active = ", ".join(sorted(self.cameras))
        return FrameError(
            f"no frame yet from {source}{until}",
            f"frames came from: {active}" if active else "no camera has sent a frame",
        )

    def stream_state(self, camera: str) -> StreamState | None:
        """Return the state of a camera's stream; None before its first frame."""
        with self._state_lock:
            buffer = self._buffers.get(camera)
        return buffer.state if buffer else None

    def tick(
        self,
        now: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_evaluated: Callable[[Query, str], None] | None = None,
    ) -> Tick:
        """Evaluate the standing queries that are due on each of their cameras with new frames.

        A query is due on a camera when its period has passed there since its last evaluation. It is
        removed when its expiry has passed, in stream time, since its first tick. Answers of queries
        that are removed or replaced during the tick are dropped.

        An evaluation that raises an exception costs only its own answer: it is reported in
        ``Tick.failures``, and the query is evaluated again after a growing delay.

        Args:
            now: The time of the caller (ns), if the caller has a clock: time also passes with it
                from one tick to the next. By default, time passes with the frames alone.
            cancelled: Called before each query, each frame of a window that is encoded and each
                decoding step; True ends the tick early.
            on_evaluated: Called after each evaluation, failed ones included, with the query and
                the camera. Frames pushed by it are seen by the evaluations that follow.

        Returns:
            New answers, all active tracks and the events that changed.
        """
        return self.collect(self.evaluate(now, cancelled, on_evaluated))

    def evaluate(
        self,
        now: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_evaluated: Callable[[Query, str], None] | None = None,
    ) -> Evaluations:
        """Evaluate the standing queries that are due: the first part of ``tick``.

        Arguments are those of ``tick``; ``collect`` returns what follows from the answers.
        """
        return self._evaluate_due(now, cancelled, StandingQuery.is_due, on_evaluated)

    def collect(self, evaluations: Evaluations = Evaluations()) -> Tick:
        """Return what is true now, from any thread, also while the model runs.

        Time has passed with the frames: tracks that no answer confirms are LOST and end, events end
        with their stream, and queries expire. Each change of an event is returned once, so results
        must be published in the order of the calls. Tracks are carried to the newest frame given to
        ``propagate``, if any was.

        Args:
            evaluations: Answers to return, too.
        """
        with self._state_lock:
            streams = self._advance(None)
            self._remove_expired()
            generations = {name: stream.generation for name, stream in streams.items()}
            for standing in self._standing.values():
                self._events.extend(standing.follow_streams(generations))
            events, self._events = self._events, []
            tracks = self._tracks(streams)
            propagations = tuple(self._propagations.values())
            for name, propagation in self._propagations.items():
                propagation.set_tracks([track for track in tracks if track.camera == name])
        for propagation in propagations:
            propagation.catch_up()
        tracks = self.carried(tracks)
        return Tick(evaluations.groundings, tracks, tuple(events), evaluations.failures)

    def finish(
        self, camera: str | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Tick:
        """Evaluate every standing query on the frames that it has not seen, and end its events.

        Call this at the end of recorded footage. Periods and ``history`` do not count; a query is
        not evaluated again on a camera if its last answer contains the newest frame. Frames that
        are held for an implausible stamp are not used.

        Args:
            camera: The camera whose footage has ended; by default that of all cameras.
            cancelled: As for ``tick``.
        """

        def is_due(standing: StandingQuery, name: str, stream: StreamState) -> bool:
            return camera in (None, name) and standing.has_unseen(name, stream)

        tick = self.collect(self._evaluate_due(None, cancelled, is_due))
        with self._state_lock:
            ended = tuple(event for s in self._standing.values() for event in s.finish(camera))
            tracks = self._tracks(self._advance(None))
            return replace(tick, tracks=tracks, events=tick.events + ended)

    def _evaluate_due(
        self,
        now: int | None,
        cancelled: Callable[[], bool] | None,
        is_due: Callable[[StandingQuery, str, StreamState], bool],
        on_evaluated: Callable[[Query, str], None] | None = None,
    ) -> Evaluations:
        with self._state_lock:
            streams = self._advance(now)
            elapsed = self._time.elapsed
            for standing in self._standing.values():
                standing.start(elapsed)
            self._remove_expired()
            work = [
                (standing, camera)
                for standing in self._standing.values()
                for camera in standing.query.cameras or tuple(streams)
                if camera in streams
            ]
        views: dict[str, _TickView] = {}
        groundings: list[Grounding] = []
        failures: list[QueryFailure] = []
        for standing, camera in work:
            if cancelled is not None and cancelled():
                break
            try:
                with self._model_lock:
                    grounding = self._evaluate(
                        standing, camera, streams[camera], is_due, views, cancelled
                    )
            except Exception as error:
                views.pop(camera, None)  # its cache may be incomplete
                with self._state_lock:
                    if self._is_current(standing):
                        failures.append(standing.fail(camera, error, streams[camera].now))
            else:
                if grounding is None:
                    continue
                groundings.append(grounding)
            if on_evaluated is not None:
                on_evaluated(standing.query, camera)
        return Evaluations(tuple(groundings), tuple(failures))

    def _tracks(self, streams: Mapping[str, StreamState]) -> tuple[Track, ...]:
        """Return the active tracks of all queries."""
        return tuple(
            track
            for standing in self._standing.values()
            for camera, stream in streams.items()
            for track in standing.tracks(camera, stream.now)
        )

    def _evaluate(
        self,
        standing: StandingQuery,
        camera: str,
        started: StreamState,
        is_due: Callable[[StandingQuery, str, StreamState], bool],
        views: dict[str, _TickView],
        cancelled: Callable[[], bool] | None,
    ) -> Grounding | None:
        def is_stale() -> bool:
            return not self._is_current(standing) or (cancelled is not None and cancelled())

        with self._state_lock:
            buffer = self._buffers.get(camera)
            if buffer is None or is_stale():
                return None
            stream = buffer.state
            if stream is None:
                return None
            if stream.generation == started.generation and stream.now < started.now:
                stream = replace(stream, now=started.now)
            self._events.extend(standing.enter_stream(camera, stream.generation))
            if not is_due(standing, camera, stream):
                return None
            standing.mark_evaluated(camera, stream)
            hangs = self._hangs
        if camera not in views or views[camera].hangs != hangs:  # of before the model hung
            views[camera] = _TickView(CameraView(self._backend, buffer), hangs)
        view = views[camera].view
        grounding = self._runner.run(standing.prepared, view, cancelled=is_stale)
        if grounding is None:
            return None
        window = view.window(standing.query.task.modality)
        with self._state_lock:
            if window is None or is_stale():
                return None
            end = (window.generation, window.newest.stamp)
            newest = buffer.state
            is_same = newest is not None and newest.generation == window.generation
            delay = newest.newest - window.newest.stamp if newest and is_same else 0
            self._events.extend(standing.update(grounding, end, delay))
            # The answer is about the last frames of a silent camera, or of before the model hung.
            is_silent = camera in self._silences
            if is_silent or self._hangs != hangs:
                reason = EndReason.CAMERA_SILENT if is_silent else EndReason.MODEL_HANGS
                now = self._advance(None)[camera].now
                self._events.extend(standing.interrupt(camera, now, reason))
            return grounding

    def _make_standing(self, prepared: PreparedQuery) -> StandingQuery:
        return StandingQuery(prepared, self._config, self._track_ids, self._event_ids)

    def _is_current(self, standing: StandingQuery) -> bool:
        return self._standing.get(standing.query.id) is standing

    def _remove(self, query_id: str, reason: EndReason) -> bool:
        standing = self._standing.pop(query_id, None)
        if standing is not None:
            self._events.extend(standing.end(reason))
            for propagation in self._propagations.values():
                propagation.drop(query_id)
        return standing is not None

    def _remove_expired(self) -> None:
        elapsed = self._time.elapsed
        expired = [s.query.id for s in self._standing.values() if s.is_expired(elapsed)]
        for query_id in expired:
            self._remove(query_id, EndReason.QUERY_EXPIRED)

    def _advance(self, now: int | None) -> dict[str, StreamState]:
        """Advance the time to the newest frames; return the streams of the cameras with frames."""
        streams = {
            name: stream
            for name, buffer in self._buffers.items()
            if (stream := buffer.state) is not None
        }
        self._time.update({name: stream.end for name, stream in streams.items()}, now)
        return {
            name: replace(
                stream,
                now=max(self._time.now(name), stream.newest + self._silences.get(name, 0)),
            )
            for name, stream in streams.items()
        }
