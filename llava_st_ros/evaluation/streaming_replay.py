"""Replays footage at the pace of a robot: answers take time, and the stream continues meanwhile.

The clock is virtual, so that a replay takes no longer than its answers. A frame arrives at its
header stamp; a late one (older than a frame before it) arrives with that frame. Times of recording
are not used: converted and slowly played bags have none that mean anything. Where the stamps of a
camera jump, the virtual clock continues, and the stamps are mapped to it anew.

While the worker is busy, frames go into the buffer. Nothing waits in a queue: when the worker is
idle again, one tick sees the newest window (``streaming.new_frames``, as in the node), and the
evaluations that would have been due in between have been missed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_st_ros.errors import FrameError
from llava_st_ros.evaluation.latency_models import LatencyModel
from llava_st_ros.evaluation.replay import Footage, ReplayResult, UnusedFrames, end_replay
from llava_st_ros.grounder import Grounder
from llava_st_ros.query_runner import PreparedQuery
from llava_st_ros.records import NANOSECONDS, Frame, Prompt, Query, Tick, to_nanoseconds
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE, TRACK_RATE, FrameGate, TrackRates
from llava_st_ros.streaming.new_frames import NewFrames
from llava_st_ros.streaming.stream_clock import Admission
from llava_st_ros.tracking.standing import StandingQuery


@dataclass(frozen=True)
class MissedEvaluation:
    """An evaluation that was due while the worker was busy, and that no later one made up for.

    Attributes:
        query_id: The query.
        camera: The camera.
        stamp: Stamp of the frame with which it was due (ns).
    """

    query_id: str
    camera: str
    stamp: int


@dataclass
class StreamingResult(ReplayResult):
    """The output of a streaming replay.

    Attributes:
        due: Number of evaluations that a model would make that takes no time, and of those that
            were made early as an event waited for confirmation.
        missed: Those of them that were not made. An evaluation makes up for the last one that was
            due before it.
        skipped: Number of frames that came faster than ``max_frame_rate``.
        resized: Number of frames of another size than the stream's.
        answer_seconds: The time that each evaluation took, failed ones included, in order.
        stamp_to_answer: Seconds from the newest stamp of each answer's window to its publication.
        busy: The fraction of the time during which the worker was busy.
    """

    due: int = 0
    missed: list[MissedEvaluation] = field(default_factory=list)
    skipped: int = 0
    resized: int = 0
    answer_seconds: list[float] = field(default_factory=list)
    stamp_to_answer: list[float] = field(default_factory=list)
    busy: float = 0.0

    @property
    def notes(self) -> list[str]:
        """What was unusual about the stamps or not used, one line each."""
        notes = super().notes
        if self.skipped:
            notes.append(f"{self.skipped} frames not used, faster than max_frame_rate")
        if self.resized:
            notes.append(f"{self.resized} frames not used, of another size than the stream")
        if self.missed:
            notes.append(f"{len(self.missed)} of {self.due} due evaluations missed, worker busy")
        return notes


def replay_streaming(
    grounder: Grounder,
    frames: Iterable[Frame],
    queries: Sequence[Query],
    latency: LatencyModel,
    *,
    max_frame_rate: float = MAX_FRAME_RATE,
    track_rate: float = TRACK_RATE,
    on_frame: Callable[[], None] = lambda: None,
    result: StreamingResult | None = None,
) -> StreamingResult:
    """Replay footage with a worker that is busy while it answers.

    What a tick found is published when its last answer is complete, as by the node. Tracks are
    carried to each frame in between, and published with its stamp. Events that are
    active at the end of the footage do not end.

    Args:
        grounder: Runs the model. The queries are added to it, and removed at the end.
        frames: The footage.
        queries: The standing queries.
        latency: How long each answer takes. Everything else takes no time.
        max_frame_rate: The node's parameter: frames above this rate in Hz are skipped; 0: no limit.
        track_rate: The node's parameter: frames per second to which tracks are carried at most; 0:
            tracks have the boxes of answers only.
        on_frame: Called after each frame.
        result: As for ``replay``.

    Raises:
        BackendError: Evaluations of a query failed and none gave an answer.
    """
    result = StreamingResult() if result is None else result
    for query in queries:
        grounder.add_query(query)
    rates = TrackRates(track_rate)
    _Worker(grounder, frames, queries, latency, max_frame_rate, rates, on_frame, result).run()
    end_replay(grounder, queries, result)
    return result


@dataclass(frozen=True)
class _Arrival:
    frame: Frame
    at: int  # virtual time, ns
    offset: int  # of the camera's stream: virtual time minus stamp, ns
    admission: Admission


class _VirtualClock:
    """When frames arrive: at their stamps, plus an offset after each jump of a camera's clock."""

    def __init__(self, footage: Footage, reset_seconds: float) -> None:
        self._footage, self._tolerance = footage, to_nanoseconds(reset_seconds)
        self._last = 0  # of all arrivals
        self._offsets: dict[str, int] = {}  # virtual time of the camera's present stream - stamp

    def read(self, frames: Iterable[Frame]) -> Iterator[_Arrival]:
        """Yield frames with their times of arrival, which do not decrease."""
        for frame in frames:
            admission = self._footage.admit(frame)
            if admission.frames:
                self._last = max(self._last, self._map(frame, admission))
            yield _Arrival(frame, self._last, self._offsets[frame.camera], admission)

    def _map(self, frame: Frame, admission: Admission) -> int:
        camera, first = frame.camera, admission.frames[0].stamp
        if camera not in self._offsets:
            # Clocks of different cameras that are set alike share the virtual time.
            agrees = not self._offsets or abs(first - self._last) <= self._tolerance
            self._offsets[camera] = 0 if agrees else self._last - first
        elif admission.jump is not None:
            self._offsets[camera] = self._last - first
        return frame.stamp + self._offsets[camera]


class _Schedule:
    """When a query would be evaluated by a model that takes no time, and what was missed of it."""

    def __init__(self, query: Query, grounder: Grounder) -> None:
        self._query = query
        prepared = PreparedQuery(query, Prompt(np.zeros(0, np.int64), query.task.modality), None)
        self._standing = StandingQuery(prepared, grounder.config, iter(()), iter(()))
        self._outstanding: dict[str, list[int]] = {}  # stamps by camera
        self.due = 0
        self.missed: list[MissedEvaluation] = []

    def add_frame(self, grounder: Grounder, camera: str) -> None:
        """Record whether the query is due with the camera's newest frame."""
        stream = grounder.stream_state(camera)
        if stream is None or (self._query.cameras and camera not in self._query.cameras):
            return
        self._standing.enter_stream(camera, stream.generation)
        if self._standing.is_due(camera, stream):
            self._standing.mark_evaluated(camera, stream)
            self._outstanding.setdefault(camera, []).append(stream.newest)
            self.due += 1

    def evaluate(self, grounder: Grounder, camera: str) -> None:
        """An evaluation makes up for the last one that was due; those before it are missed.

        One that was not due by the period follows from an answer: an event waits for confirmation.
        """
        outstanding = self._outstanding.pop(camera, [])
        self._miss(camera, outstanding[:-1])
        stream = grounder.stream_state(camera)
        if not outstanding and stream is not None:
            self._standing.mark_evaluated(camera, stream)
            self.due += 1

    def end(self) -> None:
        """What is outstanding is missed."""
        for camera, stamps in self._outstanding.items():
            self._miss(camera, stamps)

    def _miss(self, camera: str, stamps: Sequence[int]) -> None:
        self.missed += [MissedEvaluation(self._query.id, camera, stamp) for stamp in stamps]


class _Worker:
    """The node's worker and its cameras on a virtual clock."""

    def __init__(
        self,
        grounder: Grounder,
        frames: Iterable[Frame],
        queries: Sequence[Query],
        latency: LatencyModel,
        max_frame_rate: float,
        track_rates: TrackRates,
        on_frame: Callable[[], None],
        result: StreamingResult,
    ) -> None:
        self._grounder, self._latency, self._result = grounder, latency, result
        self._max_frame_rate, self._on_frame = max_frame_rate, on_frame
        self._track_rates = track_rates
        self._footage = Footage(result, grounder.config.stream.reset_seconds)
        clock = _VirtualClock(self._footage, grounder.config.stream.reset_seconds)
        self._arrivals = clock.read(frames)
        self._next = next(self._arrivals, None)
        self._gates: dict[str, FrameGate] = {}
        self._new_frames = NewFrames()
        self._schedules = {query.id: _Schedule(query, grounder) for query in queries}
        self._numbers: Counter[tuple[str, str]] = Counter()  # answers by query and camera
        self._offsets: list[int] = []  # of the streams: virtual time minus stamp
        self._unused = UnusedFrames.of(grounder)
        self._now = 0
        self._started = 0.0  # of the evaluation in progress, by time.perf_counter

    def run(self) -> None:
        """Replay all frames."""
        result, start, busy = self._result, None, 0
        while self._next is not None or self._new_frames:
            if not self._new_frames and self._next is not None:
                self._now = max(self._now, self._next.at)
                start = self._now if start is None else start
                self._receive()
                continue
            self._new_frames.take()
            before = self._now
            self._resume_timer()
            tick = self._grounder.tick(on_evaluated=self._pass_time)
            busy += self._now - before
            result.add(tick, at=self._header_time)
            if tick.groundings:
                numbers = result.grounding_streams[-len(tick.groundings) :]
                for grounding, number in zip(tick.groundings, numbers):
                    delay = self._header_time(number) - grounding.window[-1]
                    result.stamp_to_answer.append(delay / NANOSECONDS)
        if start is not None and self._now > start:
            result.busy = busy / (self._now - start)
        for schedule in self._schedules.values():
            schedule.end()
            result.due += schedule.due
            result.missed += schedule.missed
        result.missed.sort(key=lambda missed: missed.stamp)

    def _pass_time(self, query: Query, camera: str) -> None:
        """Let the time of an evaluation pass; frames arrive meanwhile."""
        measured = time.perf_counter() - self._started
        number = self._numbers[query.id, camera]
        self._numbers[query.id, camera] += 1
        seconds = self._latency.seconds(query.id, camera, number, measured)
        self._result.answer_seconds.append(seconds)
        if query.id in self._schedules:
            self._schedules[query.id].evaluate(self._grounder, camera)
        self._now += to_nanoseconds(seconds)
        self._receive()
        self._resume_timer()

    def _resume_timer(self) -> None:
        self._started = time.perf_counter()

    def _header_time(self, number: int) -> int:
        """Return the present time on the clock of a stream (ns)."""
        return self._now - self._offsets[number]

    def _receive(self) -> None:
        """Push the frames that have arrived by now."""
        while self._next is not None and self._next.at <= self._now:
            arrival, camera = self._next, self._next.frame.camera
            self._footage.assign(camera, arrival.admission)
            # Streams are numbered as they start.
            self._offsets += [arrival.offset] * (len(self._result.streams) - len(self._offsets))
            if self._accepts(arrival.frame) and self._grounder.push(arrival.frame):
                self._new_frames.add(arrival.frame)
                for schedule in self._schedules.values():
                    schedule.add_frame(self._grounder, camera)
            self._propagate(arrival.frame)
            self._unused.count(self._grounder, self._result)
            self._on_frame()
            self._next = next(self._arrivals, None)

    def _propagate(self, frame: Frame) -> None:
        """Carry the tracks to a frame of the stream's size; they are published at its stamp."""
        if not self._gates[frame.camera].has_size((frame.width, frame.height)):
            return
        if not self._track_rates.is_due(frame.camera, frame.stamp):
            return
        tracks = self._grounder.propagate(frame)
        if tracks:
            self._result.add(Tick(tracks=tracks), frame.camera, at=lambda number: frame.stamp)

    def _accepts(self, frame: Frame) -> bool:
        gate = self._gates.setdefault(frame.camera, FrameGate(self._max_frame_rate))
        if gate.is_too_soon(frame.stamp):
            self._result.skipped += 1
            return False
        try:
            gate.accept(frame.stamp, (frame.width, frame.height))
        except FrameError:
            self._result.resized += 1
            return False
        return True
