"""Evaluates standing queries on an annotated bag: replay, then scores.

Each annotated camera is replayed by itself. Queries that need a span or a box as input, and those
that are answered in words alone, have no meaning as standing queries: they are left out by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from llava_st_ros.annotations.annotation_file import (
    check_footage,
    check_image_size,
    read_annotations,
)
from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
from llava_st_ros.backends.base import Backend
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import DataError, QueryError
from llava_st_ros.evaluation.latency_models import parse_latency
from llava_st_ros.evaluation.ledger import LedgerModel, LedgerSource, ledger_line
from llava_st_ros.evaluation.recorded_replay import RecordedReplay, StreamingMode, recorded_replay
from llava_st_ros.evaluation.replay import ReplayResult
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults, rows_of
from llava_st_ros.evaluation.scoring import CATEGORIES
from llava_st_ros.evaluation.streams.headline import ALL_QUERIES
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS, score_stream
from llava_st_ros.grounder import Grounder
from llava_st_ros.media.bags.storage_files import find_storage_files
from llava_st_ros.media.sources import BagSource
from llava_st_ros.query_rules import MAX_PERIOD, MIN_PERIOD, checked_seconds
from llava_st_ros.query_runner import QueryRunner
from llava_st_ros.records import NANOSECONDS, Frame, Query, Task
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE, TRACK_RATE
from llava_st_ros.text.tokenizer import Tokenizer

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
        track_rate: Frames per second to which tracks are carried at most; 0: not carried.

    Raises:
        QueryError: ``period`` is out of range.
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
    track_rate: float = TRACK_RATE

    def __post_init__(self) -> None:
        checked_seconds("the period", self.period, MIN_PERIOD, MAX_PERIOD)

    @property
    def mode(self) -> StreamingMode | None:
        """The mode of the replay; None for offline. Raises ConfigError."""
        if not self.latency:
            return None
        return StreamingMode(parse_latency(self.latency, self.seed), self.max_frame_rate)


@dataclass(frozen=True)
class BagOutcome:
    """The results of a bag.

    Attributes:
        cases: A case for each query.
        dropped: What was not used of the bag and its annotations, and why, one line each.
        failures: Which cameras were not evaluated, and why, one line each.
        frames: Number of frames that were replayed.
        seconds: Header time that they cover.
        latency: Samples in seconds by stage (``RecordedReplay``).
        ledger: A line for each answer (``ledger_line``).
    """

    cases: tuple[Case, ...]
    dropped: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    frames: int = 0
    seconds: float = 0.0
    latency: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    ledger: tuple[str, ...] = ()


def read_truth(job: BagJob) -> GroundTruth:
    """Return the annotations of a job's bag.

    Raises:
        DataError: There is no bag, which is said first; or the annotations cannot be used.
    """
    find_storage_files(job.bag)
    return read_annotations(job.annotations)


def evaluate_bag(
    job: BagJob,
    backend: Backend,
    tokenizer: Tokenizer,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    model: LedgerModel = UNNAMED_MODEL,
    runner: QueryRunner | None = None,
) -> BagOutcome:
    """Replay a bag with its annotated queries and score what was published.

    Two calls return the same outcome but for ``latency``, unless answers take the time that they
    really took.

    Args:
        job: The bag.
        backend: The model.
        tokenizer: Its tokenizer.
        on_progress: Called after each frame with the frames until now and in all.
        model: The model, for the ledger.
        runner: As for ``Grounder``.

    Raises:
        ConfigError: The job's latency makes no sense.
        DataError: There is no bag, its annotations cannot be used, or no camera can be evaluated.
    """
    truth = read_truth(job)
    topics = annotated_topics(job, truth)
    dropped = [f"{job.annotations.name}: {note}" for note in truth.notes]
    failures: list[str] = []
    replays: list[_CameraReplay] = []
    for topic in topics:
        standing, left_out = standing_queries(truth, topic)
        dropped += left_out
        if not standing:
            continue
        try:
            source = BagSource(job.bag, topic or None)
        except DataError as error:
            failures.append(_not_evaluated(topic, standing, error))
            continue
        replays.append(_CameraReplay(job, truth, topic, standing, source))
    total = sum(camera.length for camera in replays)
    done = 0

    def on_frame() -> None:
        nonlocal done
        done += 1
        on_progress(done, max(done, total))

    evaluated: list[_CameraReplay] = []
    for camera in replays:
        try:
            camera.run(backend, tokenizer, on_frame, model, runner)
        except DataError as error:
            failures.append(_not_evaluated(camera.topic, camera.standing, error))
        else:
            evaluated.append(camera)
    if failures and not evaluated:
        raise DataError("; ".join(failures))
    dropped += [line for camera in evaluated for line in camera.dropped()]
    return BagOutcome(
        tuple(case for camera in evaluated for case in camera.cases()),
        tuple(f"{job.name}: {line}" for line in dropped),
        tuple(f"{job.name}: {line}" for line in failures),
        sum(len(camera.result.stamps) for camera in evaluated),
        sum(camera.seconds for camera in evaluated),
        merge_latency(camera.replayed.latency for camera in evaluated),
        tuple(ledger_line(entry) for camera in evaluated for entry in camera.replayed.ledger),
    )


def merge_latency(
    parts: Iterable[Mapping[str, Sequence[float]]],
) -> Mapping[str, tuple[float, ...]]:
    """Return the samples of all parts by stage.

    >>> merge_latency([{"tick": [0.5]}, {"tick": [0.25], "answer": [0.1]}])
    {'tick': (0.5, 0.25), 'answer': (0.1,)}
    """
    merged: dict[str, list[float]] = {}
    for part in parts:
        for stage, samples in part.items():
            merged.setdefault(stage, []).extend(samples)
    return {stage: tuple(samples) for stage, samples in merged.items()}


def footage(outcomes: Sequence[BagOutcome]) -> Mapping[str, Any]:
    """Return how much of the bags was replayed, for ``RunResults.about``."""
    return {
        "bags": len(outcomes),
        "frames": sum(outcome.frames for outcome in outcomes),
        "footage_seconds": round(sum(outcome.seconds for outcome in outcomes), 3),
    }


def run_results(
    about: Mapping[str, Any], outcomes: Sequence[BagOutcome], failures: Sequence[str]
) -> RunResults:
    """Return the results of a run on bags.

    Args:
        about: What ran.
        outcomes: The bags that were evaluated, in order.
        failures: What was not evaluated, and why, one line each.
    """
    cases = tuple(case for outcome in outcomes for case in outcome.cases)
    dropped = (line for outcome in outcomes for line in outcome.dropped)
    latency = merge_latency(outcome.latency for outcome in outcomes)
    return RunResults(about, cases, tuple(stream_rows(cases)), (*dropped, *failures), latency)


def stream_rows(cases: Sequence[Case]) -> list[MetricRow]:
    """Return the figures of a run on bags: of all queries, then of each category."""
    rows = rows_of(ALL_QUERIES, STREAM_METRICS, cases)
    categories = [name for name in CATEGORIES if any(case.task == name for case in cases)]
    if len(categories) > 1:
        for name in categories:
            rows += rows_of(name, STREAM_METRICS, [case for case in cases if case.task == name])
    return rows


class _CameraReplay:
    """The replay of one camera of a bag.

    Attributes:
        topic: Its image topic.
        standing: Its queries.
        length: Expected number of frames.
        replayed: The output of ``run``.
    """

    def __init__(
        self,
        job: BagJob,
        truth: GroundTruth,
        topic: str,
        standing: Sequence[AnnotatedQuery],
        source: BagSource,
    ) -> None:
        self._job, self._truth, self._source = job, truth, source
        self.topic, self.standing = topic, list(standing)
        self.length = source.length or 0
        self.replayed = RecordedReplay(ReplayResult(), (), {})
        self._rejected: list[str] = []
        self._other_sizes: Counter[tuple[int, int]] = Counter()

    def run(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        on_frame: Callable[[], None],
        model: LedgerModel,
        runner: QueryRunner | None,
    ) -> None:
        """Replay the camera. Raises DataError if there is no frame, or the images do not fit."""
        job = self._job
        most = max(job.config.max_queries, len(self.standing))
        config = replace(job.config, max_queries=most)
        queries = self._accepted(Grounder(backend, tokenizer, config))
        self.replayed = recorded_replay(
            backend,
            tokenizer,
            self._frames(),
            queries,
            LedgerSource(job.name, str(job.bag), self.topic, model, config),
            job.mode,
            track_rate=job.track_rate,
            on_frame=on_frame,
            runner=runner,
        )

    @property
    def result(self) -> ReplayResult:
        """The result of the replay."""
        return self.replayed.result

    @property
    def seconds(self) -> float:
        """Header time that the frames cover."""
        streams = [stream.stamps for stream in self.result.streams]
        return sum(max(stamps) - min(stamps) for stamps in streams) / NANOSECONDS

    def cases(self) -> Iterator[Case]:
        """Yield the case of each query."""
        stamps = {number: stream.stamps for number, stream in enumerate(self.result.streams)}
        for query in self.standing:
            scores = score_stream(self.result.published, query, self._truth, stamps)
            parts = (self._job.name, self.topic.strip("/"), query.id)
            yield scores.as_case("/".join(filter(None, parts)), str(self._job.bag), query)

    def dropped(self) -> list[str]:
        """Return what was not used, and why, one line each."""
        source, stamps = self._source, self.result.stamps
        lines = [*self._loss(), *source.notes, *self.result.notes, *self._resized()]
        lines += check_footage(self._truth, self.topic, stamps)
        lines = [f"{self.topic}: {line}" if self.topic else line for line in lines]
        return [*self._rejected, *lines]

    def _accepted(self, grounder: Grounder) -> list[Query]:
        """Return the queries that the model accepts; the others are left out by name."""
        accepted, queries = [], []
        for annotated in self.standing:
            try:
                query = Query(annotated.id, annotated.text, annotated.task, period=self._job.period)
                grounder.add_query(query)
            except QueryError as error:
                self._rejected.append(f"query {annotated.id!r} is not evaluated: {error}")
                continue
            grounder.remove_query(query.id)
            accepted.append(annotated)
            queries.append(query)
        self.standing = accepted
        return queries

    def _frames(self) -> Iterator[Frame]:
        """Yield the frames, after the first was compared with the size of the annotated images."""
        expected = None
        for frame in self._source:
            size = frame.width, frame.height
            if expected is None:
                check_image_size(self._truth, self.topic, size)
                expected = size
            elif size != expected:
                self._other_sizes[size] += 1
            yield frame

    def _resized(self) -> list[str]:
        """Count the frames of another size than the annotated one."""
        camera = self._truth.camera(self.topic)
        return [
            f"{count} frames are {width} x {height}, not {camera.width} x {camera.height} as "
            "annotated; boxes are compared as fractions of the image"
            for (width, height), count in self._other_sizes.items()
        ]

    def _loss(self) -> list[str]:
        """Return how many recorded frames were not readable, and how much time they cover."""
        source, read = self._source, self.result.stamps
        recorded = max(source.bag.recorded_messages(source.topic), len(read))
        lines = []
        if lost := recorded - len(read):
            steps = [after - before for before, after in pairwise(read) if after > before]
            seconds = f", about {lost * median(steps) / NANOSECONDS:.1f} s" if steps else ""
            last = f"; last error: {source.problem}" if source.problem else ""
            lines.append(f"{lost} of {recorded} frames are lost{seconds}{last}")
        annotated = [
            stamp for o in self._truth.objects if o.topic == self.topic for stamp in o.boxes
        ]
        annotated += [
            span.end for q in self._truth.queries if q.topic == self.topic for span in q.spans
        ]
        if read and annotated and max(annotated) > max(read):
            seconds = f"{(max(annotated) - max(read)) / NANOSECONDS:.1f} s"
            lines.append(f"the annotations end {seconds} after the last readable frame")
        return lines


def standing_queries(truth: GroundTruth, topic: str) -> tuple[list[AnnotatedQuery], list[str]]:
    """Return a topic's queries that can be standing queries, and a line about each other one."""
    annotated = [query for query in truth.queries if query.topic == topic]
    standing = [query for query in annotated if query.task in STANDING_TASKS]
    return standing, [_not_standing(query) for query in annotated if query not in standing]


def annotated_topics(job: BagJob, truth: GroundTruth) -> list[str]:
    """Return the annotated topics that a job names. Raises DataError if there is none."""
    annotated = list(dict.fromkeys(query.topic for query in truth.queries))
    if not annotated:
        raise DataError(
            f"{job.annotations} has no queries", "annotate some with 'llava-st eval annotate'"
        )
    if not job.topic:
        return annotated
    for topic in annotated:
        if topic.strip("/") == job.topic.strip("/"):
            return [topic]
    BagSource(job.bag, job.topic)  # a topic that does not exist: the error lists those that do
    known = ", ".join(topic or "(no topic)" for topic in annotated)
    raise DataError(
        f"{job.annotations} has no queries of {job.topic}", f"the annotated topics are {known}"
    )


def _not_standing(query: AnnotatedQuery) -> str:
    return (
        f"query {query.id!r} is not evaluated: {query.task.value} is not a task of standing "
        "queries on a stream"
    )


def _not_evaluated(topic: str, queries: Sequence[AnnotatedQuery], error: DataError) -> str:
    """Return a line about a camera that is not evaluated."""
    return f"{topic or 'its images'}: {len(queries)} queries not evaluated: {error}"
