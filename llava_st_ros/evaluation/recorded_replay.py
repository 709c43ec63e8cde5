"""One replay with all that an evaluation keeps of it: result, ledger, and times of the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.frame_hashes import HashedBackend
from llava_st_ros.evaluation.latency_models import LatencyModel
from llava_st_ros.evaluation.ledger import LedgerEntry, LedgerRecorder, LedgerSource
from llava_st_ros.evaluation.replay import ReplayResult, replay
from llava_st_ros.evaluation.stage_times import StageTimes, TimedBackend, TimedGrounder
from llava_st_ros.evaluation.streaming_replay import StreamingResult, replay_streaming
from llava_st_ros.query_runner import QueryRunner
from llava_st_ros.records import Frame, Query
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE, TRACK_RATE
from llava_st_ros.text.tokenizer import Tokenizer

ANSWER, STAMP_TO_ANSWER = "answer", "stamp_to_answer"


@dataclass(frozen=True)
class StreamingMode:
    """Replay at the pace of a robot (``replay_streaming``).

    Attributes:
        latency: How long each answer takes.
        max_frame_rate: Frames above this rate in Hz are skipped; 0: no limit.
    """

    latency: LatencyModel
    max_frame_rate: float = MAX_FRAME_RATE

    def __str__(self) -> str:
        return f"streaming, latency {self.latency}"


@dataclass(frozen=True)
class RecordedReplay:
    """A replay and what was recorded of it.

    Attributes:
        result: Its result.
        ledger: An entry for each answer.
        latency: Seconds by stage, measured on this machine (``StageTimes``). In streaming mode also
            "answer" and "stamp_to_answer", by its latency model.
    """

    result: ReplayResult
    ledger: tuple[LedgerEntry, ...]
    latency: Mapping[str, tuple[float, ...]]


def recorded_replay(
    backend: Backend,
    tokenizer: Tokenizer,
    frames: Iterable[Frame],
    queries: Sequence[Query],
    source: LedgerSource,
    mode: StreamingMode | None = None,
    *,
    track_rate: float = TRACK_RATE,
    on_frame: Callable[[], None] = lambda: None,
    runner: QueryRunner | None = None,
) -> RecordedReplay:
    """Replay footage and record its answers.

    That a query was never answered, as all its evaluations failed, is a result and no error. Result
    and ledger are the same in every run, except with measured latencies.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        frames: The footage.
        queries: The standing queries.
        source: What the answers have in common; its ``config`` is that of the replay.
        mode: Streaming mode; None for offline, where every due query is answered.
        track_rate: As for ``replay``.
        on_frame: Called after each frame.
        runner: As for ``Grounder``.
    """
    times = StageTimes()
    hashed = HashedBackend(TimedBackend(backend, times))
    recorder = LedgerRecorder(source, hashed)
    grounder = TimedGrounder(hashed, tokenizer, source.config, times, runner)
    result = ReplayResult() if mode is None else StreamingResult()
    footage = hashed.watch(times.read(frames))

    def record() -> None:
        recorder.record(result)
        on_frame()

    try:
        if mode is None:
            replay(
                grounder, footage, queries, track_rate=track_rate, on_frame=record, result=result
            )
        else:
            assert isinstance(result, StreamingResult)
            replay_streaming(
                grounder,
                footage,
                queries,
                mode.latency,
                max_frame_rate=mode.max_frame_rate,
                track_rate=track_rate,
                on_frame=record,
                result=result,
            )
    except BackendError:  # of ``end_replay``
        if not result.complete:
            raise
    recorder.record(result)
    latency = {stage: tuple(samples) for stage, samples in times.samples.items()}
    if isinstance(result, StreamingResult):
        latency[ANSWER] = tuple(result.answer_seconds)
        latency[STAMP_TO_ANSWER] = tuple(result.stamp_to_answer)
    return RecordedReplay(result, tuple(recorder.entries), latency)
