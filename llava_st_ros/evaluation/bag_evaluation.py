"""Evaluates standing queries on an annotated bag: replay, then scores.

Each annotated camera is replayed by itself. Queries that need a span or a box as input, and those
that are answered in words alone, have no meaning as standing queries and are left out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_st_ros.annotations.annotation_file import check_footage, read_annotations
from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.latency_models import parse_latency
from llava_st_ros.evaluation.ledger import LedgerModel, LedgerSource, ledger_line
from llava_st_ros.evaluation.recorded_replay import StreamingMode, recorded_replay
from llava_st_ros.evaluation.replay import ReplayResult
from llava_st_ros.evaluation.results import Case, MetricRow, rows_of
from llava_st_ros.evaluation.scoring import CATEGORIES
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS, score_stream
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import NANOSECONDS, Frame, Query, Task
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE
from llava_st_ros.text.tokenizer import Tokenizer

ALL_QUERIES = "stream"  # the rows of all queries together
UNNAMED_MODEL = LedgerModel("", "")
STANDING_TASKS = (Task.STVG, Task.TVG, Task.REC)  # that are published as tracks or events


@dataclass(frozen=True)
class BagJob:
    """A bag to evaluate.

    Attributes:
        name: Its name in the run, unique.
        bag: Its path.
        annotations: Its annotation file.
        topic: The topic to evaluate; empty for all that are annotated.
        config: How queries are answered.
        period: Seconds between evaluations of a query.
        latency: How long an answer takes (``parse_latency``): the bag is replayed at the pace of a
            robot. Empty: offline, every due query is answered.
        seed: Of the latencies that are drawn.
        max_frame_rate: Frames above this rate in Hz are skipped; 0: no limit. Not offline.
    """

    name: str
    bag: Path
    annotations: Path
    topic: str = ""
    config: GrounderConfig = field(default_factory=GrounderConfig)
    period: float = 1.0
    latency: str = ""
    seed: int = 0
    max_frame_rate: float = MAX_FRAME_RATE

    @property
    def mode(self) -> StreamingMode | None:
        """The mode of the replay; None for offline. Raises ConfigError."""
        if not self.latency:
            return None
        return StreamingMode(parse_latency(self.latency, self.seed), self.max_frame_rate)


@dataclass(frozen=True)
class BagOutcome:
    """What came of a bag.

    Attributes:
        cases: A case for each query.
        dropped: What was not evaluated, and why, one line each.
        frames: Number of frames that were replayed.
        seconds: Header time that they cover.
        latency: Samples in seconds by stage (``RecordedReplay``).
        ledger: A line for each answer (``ledger_line``).
    """

    cases: tuple[Case, ...]
    dropped: tuple[str, ...]
    frames: int
    seconds: float
    latency: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    ledger: tuple[str, ...] = ()


def evaluate_bag(
    job: BagJob,
    backend: Backend,
    tokenizer: Tokenizer,
    on_frame: Callable[[], None] = lambda: None,
    model: LedgerModel = UNNAMED_MODEL,
) -> BagOutcome:
    """Replay a bag with its annotated queries and score what was published.

    Cases and ledger are the same in every run, except with measured latencies.

    Args:
        job: The bag.
        backend: The model.
        tokenizer: Its tokenizer.
        on_frame: Called after each frame.
        model: What the ledger says about the model.

    Raises:
        ConfigError: The job's latency makes no sense.
        DataError: The bag or its annotations cannot be used.
    """
    truth = read_annotations(job.annotations)
    mode = job.mode
    cases: list[Case] = []
    ledger: list[str] = []
    latency: dict[str, tuple[float, ...]] = {}
    dropped, frames, seconds = list(truth.notes), 0, 0.0
    for topic in _topics(job, truth):
        annotated = [query for query in truth.queries if query.topic == topic]
        standing = [query for query in annotated if query.task in STANDING_TASKS]
        dropped += [_not_standing(query) for query in annotated if query not in standing]
        if not standing:
            continue
        source = BagSource(job.bag, topic or None)
        answered = LedgerSource(job.name, str(job.bag), topic, model, job.config)
        queries = [Query(q.id, q.text, q.task, period=job.period) for q in standing]
        footage = _sized(source, truth, topic)
        replayed = recorded_replay(
            backend, tokenizer, footage, queries, answered, mode, on_frame=on_frame
        )
        result = replayed.result
        ledger += map(ledger_line, replayed.ledger)
        for stage, samples in replayed.latency.items():
            latency[stage] = latency.get(stage, ()) + samples
        cases += _cases(job, truth, topic, standing, result)
        dropped += _lost(source, truth, topic, result)
        frames += len(result.stamps)
        seconds += sum(max(s.stamps) - min(s.stamps) for s in result.streams) / NANOSECONDS
    lines = tuple(f"{job.name}: {line}" for line in dropped)
    return BagOutcome(tuple(cases), lines, frames, seconds, latency, tuple(ledger))


def stream_rows(cases: Sequence[Case]) -> list[MetricRow]:
    """Return the figures of a run on bags: of all queries, then of each category."""
    rows = rows_of(ALL_QUERIES, STREAM_METRICS, cases)
    categories = [name for name in CATEGORIES if any(case.task == name for case in cases)]
    if len(categories) > 1:
        for name in categories:
            rows += rows_of(name, STREAM_METRICS, [case for case in cases if case.task == name])
    return rows


def _topics(job: BagJob, truth: GroundTruth) -> list[str]:
    annotated = list(dict.fromkeys(query.topic for query in truth.queries))
    if not annotated:
        raise DataError(f"{job.annotations} has no queries", "annotate some")
    if not job.topic:
        return annotated
    if job.topic not in annotated:
        known = ", ".join(topic or "(no topic)" for topic in annotated)
        raise DataError(
            f"{job.annotations} has no queries of {job.topic}", f"the annotated topics are {known}"
        )
    return [job.topic]


def _not_standing(query: AnnotatedQuery) -> str:
    return (
        f"query {query.id!r} is not evaluated: {query.task.value} is not a task of standing "
        "queries on a stream"
    )


def _sized(source: BagSource, truth: GroundTruth, topic: str) -> Iterator[Frame]:
    """Yield the frames, after the first was compared with the size of the annotated images."""
    for number, frame in enumerate(source):
        if number == 0:
            check_footage(truth, topic, [], (frame.width, frame.height))
        yield frame


def _cases(
    job: BagJob,
    truth: GroundTruth,
    topic: str,
    queries: Sequence[AnnotatedQuery],
    result: ReplayResult,
) -> Iterator[Case]:
    stamps = {number: stream.stamps for number, stream in enumerate(result.streams)}
    for query in queries:
        scores = score_stream(result.published, query, truth, stamps)
        name = "/".join(filter(None, (job.name, topic.strip("/"), query.id)))
        yield scores.as_case(name, str(job.bag), query)


def _lost(source: BagSource, truth: GroundTruth, topic: str, result: ReplayResult) -> list[str]:
    lines = [*source.notes, *result.notes, *check_footage(truth, topic, result.stamps)]
    if source.dropped:
        lines.insert(0, f"{source.dropped} frames dropped; last error: {source.problem}")
    return [f"{topic}: {line}" if topic else line for line in lines]
