"""Replays recorded footage through the Grounder, with the frames' stamps as the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Query, QueryFailure, Tick
from llava_st_ros.streaming.frame_gate import TRACK_RATE, TrackRates
from llava_st_ros.streaming.stream_clock import CONFIRMATIONS, Admission, ClockJump, StreamClock

T = TypeVar("T")
MAX_NOTES = 5  # jumps of the clock that are described each


@dataclass
class ReplayedStream:
    """The frames of one camera between two jumps of its clock.

    Attributes:
        camera: The camera.
        first_frame: Number of its first frame in the footage.
        stamps: The stamps of its frames (ns), in order of the footage.
        jump: The jump of the clock that started it; None for the camera's first stream.
        oldest: The smallest of the stamps; 0 before the first.
        newest: The greatest of the stamps; 0 before the first.
    """

    camera: str
    first_frame: int
    stamps: list[int] = field(default_factory=list)
    jump: ClockJump | None = None
    oldest: int = 0
    newest: int = 0

    def append(self, stamp: int) -> None:
        """Add the stamp of a frame (ns)."""
        self.oldest = min(self.oldest, stamp) if self.stamps else stamp
        self.newest = max(self.newest, stamp) if self.stamps else stamp
        self.stamps.append(stamp)


@dataclass
class ReplayResult:
    """The output of a replay.

    Attributes:
        recording: The final tracks and events.
        published: What was published with which frame, each camera for itself: a tick of the camera
            of each frame, and one of another camera when something was published about it.
        groundings: Every answer, in order.
        grounding_streams: The number of the stream of each answer.
        stamps: The stamps of the frames (ns). Only those of one stream are comparable.
        frame_streams: The number of the stream of each frame; None if it was not used, because its
            stamp was implausible.
        streams: One per camera and jump of its clock.
        repeated: Number of frames that repeat the stamp of an earlier one.
        discarded: Number of frames that were too old for the window when they came, or were evicted
            by the bounds of the buffer.
        failures: The evaluations that raised an exception, in order.
        complete: Whether the replay reached the end of the footage.
    """

    recording: Recording = field(default_factory=Recording)
    published: list[PublishedTick] = field(default_factory=list)
    groundings: list[Grounding] = field(default_factory=list)
    grounding_streams: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    frame_streams: list[int | None] = field(default_factory=list)
    streams: list[ReplayedStream] = field(default_factory=list)
    repeated: int = 0
    discarded: int = 0
    failures: list[QueryFailure] = field(default_factory=list)
    complete: bool = False

    @property
    def notes(self) -> list[str]:
        """What was unusual about the stamps, one line each."""
        notes = []
        jumps = [stream for stream in self.streams if stream.jump is not None]
        for stream in jumps[:MAX_NOTES]:
            notes.append(
                f"the clock of the stamps jumps {stream.jump} at frame {stream.first_frame}; a new "
                "stream starts there"
            )
        if len(jumps) > MAX_NOTES:
            notes.append(f"the clock of the stamps jumps {len(jumps)} times in all")
        unused = [n for n, stream in enumerate(self.frame_streams) if stream is None]
        if unused:
            listed = ", ".join(f"{n} at {self.stamps[n] / NANOSECONDS:.3f} s" for n in unused[:3])
            more = ", ..." if len(unused) > 3 else ""
            notes.append(f"{len(unused)} frames not used, implausible stamp: frame {listed}{more}")
        if self.repeated:
            notes.append(f"{self.repeated} frames not used, stamp of an earlier frame")
        if self.discarded:
            notes.append(f"{self.discarded} frames not used, too old or no room in the buffer")
        return notes

    def failures_by_query(self) -> dict[str, list[QueryFailure]]:
        """Return the failures of each query that has any."""
        grouped: dict[str, list[QueryFailure]] = {}
        for failure in self.failures:
            grouped.setdefault(failure.query_id, []).append(failure)
        return grouped

    def check_complete(self) -> None:
        """Raise BackendError if an evaluation failed, so that no score is made of the others."""
        for failure in self.failures:
            raise BackendError(
                f"{len(self.failures)} evaluations failed, the first of query "
                f"{failure.query_id!r}: {failure.error}"
            )

    def add(
        self,
        tick: Tick,
        camera: str | None = None,
        at: Callable[[int], int] | None = None,
    ) -> None:
        """Add the results of one tick.

        Args:
            tick: The tick.
            camera: The camera whose frame it is about; None for all.
            at: Returns the time of publication (ns) on the clock of the stream with a number; by
                default the newest stamp of the stream.
        """
        numbers = {stream.camera: number for number, stream in enumerate(self.streams)}
        answers = [self._stream_at(g.camera, g.window[-1]) for g in tick.groundings]
        events = [self._stream_at(e.camera, e.span.end) for e in tick.events]
        tracks = [self._stream_at(t.camera, t.stamp) for t in tick.tracks]
        for number in sorted({*numbers.values(), *answers, *events, *tracks}):
            stream = self.streams[number]
            is_current = numbers[stream.camera] == number
            part = Tick(
                _of_stream(tick.groundings, answers, number),
                _of_stream(tick.tracks, tracks, number),
                _of_stream(tick.events, events, number),
                tuple(f for f in tick.failures if is_current and f.camera == stream.camera),
            )
            has_news = bool(part.groundings or part.events or part.failures)
            if has_news or (is_current and camera in (None, stream.camera)):
                time = stream.newest if at is None else at(number)
                self.published.append(PublishedTick(time, part, number))
        self.groundings.extend(tick.groundings)
        self.grounding_streams.extend(answers)
        self.failures.extend(tick.failures)
        for track, number in zip(tick.tracks, tracks):
            self.recording.add_track(track, number)
        for event, number in zip(tick.events, events):
            self.recording.add_event(event, number)

    def _stream_at(self, camera: str, stamp: int) -> int:
        """Return the number of the camera's latest stream that contains a stamp (ns)."""
        numbers = [n for n, stream in enumerate(self.streams) if stream.camera == camera]
        for number in reversed(numbers):
            stream = self.streams[number]
            if stream.oldest <= stamp <= stream.newest:
                return number
        return numbers[-1]


def _of_stream(records: tuple[T, ...], streams: Sequence[int], number: int) -> tuple[T, ...]:
    return tuple(record for record, stream in zip(records, streams) if stream == number)


class Footage:
    """Assigns the frames of a replay to streams."""

    def __init__(self, result: ReplayResult, reset_seconds: float) -> None:
        self._result, self._reset_seconds = result, reset_seconds
        self._clocks: dict[str, StreamClock] = {}
        self._held: dict[str, list[tuple[Frame, int]]] = {}  # with their numbers, by camera
        self._current: dict[str, int] = {}

    def admit(self, frame: Frame) -> Admission:
        """Decide which frames join a stream now (see StreamClock)."""
        number = len(self._result.stamps)
        self._result.stamps.append(frame.stamp)
        self._result.frame_streams.append(None)
        clock = self._clocks.setdefault(frame.camera, StreamClock(self._reset_seconds))
        admission = clock.admit(frame)
        self._held.setdefault(frame.camera, []).append((frame, number))
        return admission

    def assign(self, camera: str, admission: Admission) -> None:
        """Assign admitted frames to the camera's stream, a new one after a jump of its clock."""
        held = self._held[camera]
        admitted = [pair for pair in held if any(pair[0] is frame for frame in admission.frames)]
        if admitted:
            result, held = self._result, []
            if camera not in self._current or admission.jump is not None:
                self._current[camera] = len(result.streams)
                new = ReplayedStream(camera, admitted[0][1], jump=admission.jump)
                result.streams.append(new)
            for frame, number in admitted:
                result.frame_streams[number] = self._current[camera]
                result.streams[self._current[camera]].append(frame.stamp)
        self._held[camera] = held[-CONFIRMATIONS:]


def replay(
    grounder: Grounder,
    frames: Iterable[Frame],
    queries: Sequence[Query],
    *,
    track_rate: float = TRACK_RATE,
    on_frame: Callable[[], None] = lambda: None,
    result: ReplayResult | None = None,
) -> ReplayResult:
    """Push every frame and evaluate the standing queries as the node does, by the frames' stamps.

    Image tasks are evaluated from the first frame, video tasks once ``StreamConfig.history`` of the
    window is filled. Unlike on a running stream, the end is known: every query is evaluated once
    more on the last frames, however short the footage is, and events end. The same is done
    where the clock of the stamps jumps, before the new stream starts.

    Args:
        grounder: Runs the model. The queries are added to it, and removed at the end.
        frames: The footage.
        queries: The standing queries.
        track_rate: The node's parameter: frames per second to which tracks are carried at most; 0:
            tracks have the boxes of answers only.
        on_frame: Called after each frame.
        result: Filled and returned, so that the caller has what was done if the replay is ended by
            an exception; a new one by default.

    Raises:
        BackendError: Evaluations of a query failed and none gave an answer.
    """
    for query in queries:
        grounder.add_query(query)
    result = ReplayResult() if result is None else result
    footage = Footage(result, grounder.config.stream.reset_seconds)
    before = UnusedFrames.of(grounder)
    rates = TrackRates(track_rate)
    for frame in frames:
        admission = footage.admit(frame)
        if admission.jump is not None:
            result.add(grounder.finish(frame.camera), frame.camera)
        footage.assign(frame.camera, admission)
        for admitted in admission.frames:
            grounder.push(admitted)
            if rates.is_due(admitted.camera, admitted.stamp):
                grounder.propagate(admitted)
        if admission.frames:
            result.add(grounder.tick(), frame.camera)
        before.count(grounder, result)
        on_frame()
    result.add(grounder.finish())
    end_replay(grounder, queries, result)
    return result


@dataclass(frozen=True)
class UnusedFrames:
    """Frames of all cameras that the Grounder did not use, at one moment.

    Attributes:
        repeated: As in ``ReplayResult``.
        discarded: As in ``ReplayResult``.
    """

    repeated: int
    discarded: int

    @classmethod
    def of(cls, grounder: Grounder) -> UnusedFrames:
        """Return the present counts of a Grounder."""
        counts = [grounder.counts(camera) for camera in grounder.cameras]
        return cls(sum(c.duplicates for c in counts), sum(c.discarded for c in counts))

    def count(self, grounder: Grounder, result: ReplayResult) -> None:
        """Set the result's counts to those since this moment."""
        now = UnusedFrames.of(grounder)
        result.repeated = now.repeated - self.repeated
        result.discarded = now.discarded - self.discarded


def end_replay(grounder: Grounder, queries: Sequence[Query], result: ReplayResult) -> None:
    """Remove the queries that have not expired; the result is complete.

    Raises:
        BackendError: Evaluations of a query failed and none gave an answer.
    """
    for query in queries:
        if query in grounder.queries:
            grounder.remove_query(query.id)
    result.complete = True
    answered = {grounding.query.id for grounding in result.groundings}
    for failure in result.failures:
        if failure.query_id not in answered:
            raise BackendError(f"query {failure.query_id!r} was never answered: {failure.error}")
