"""The evaluation of many samples, by one process or several.

Samples about the same clip are evaluated by one process, one after the other. An outcome does not
depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from llava_st_ros.backends import load_backend
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.benchmarks.evaluator import (
    SampleEvaluator,
    SampleOutcome,
    unanswered,
)
from llava_st_ros.evaluation.benchmarks.media import clip_key
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkQuery
from llava_st_ros.evaluation.conventions.catalogue import CONVENTIONS
from llava_st_ros.evaluation.conventions.records import Convention
from llava_st_ros.evaluation.jobs.records import JobFailure, Progress, Work
from llava_st_ros.evaluation.jobs.run import run_jobs

CHUNK = 8  # most samples of a job of a worker process
FAILURES = 3  # jobs that fail before any succeeds: the others would, too


@dataclass(frozen=True)
class RunSettings:
    """What evaluates the samples.

    Attributes:
        model: Checkpoint or engine directory.
        media: The media folder.
        conventions: The names of the scoring conventions.
        backend: Runtime; empty for the model's own.
        device: Device of the runtime; empty for the runtime's default.
        threads: CPU threads of each process (``load_backend``).
    """

    model: Path
    media: Path
    conventions: tuple[str, ...]
    backend: str = ""
    device: str = ""
    threads: int = 0


@dataclass(frozen=True)
class _Worker:
    """Evaluates samples in a process: calling it loads the model and returns the work."""

    settings: RunSettings

    def __call__(self) -> Work[Sequence[BenchmarkQuery], list[SampleOutcome]]:
        settings = self.settings
        backend, tokenizer = load_backend(
            settings.model, name=settings.backend, device=settings.device, threads=settings.threads
        )
        evaluator = SampleEvaluator(backend, tokenizer, settings.media, _conventions(settings))

        def evaluate(queries: Sequence[BenchmarkQuery], progress: Progress) -> list[SampleOutcome]:
            return [evaluator.evaluate(query) for query in queries]

        return evaluate


def evaluate_samples(
    settings: RunSettings, queries: Sequence[BenchmarkQuery], workers: int = 1
) -> Iterator[tuple[int, SampleOutcome]]:
    """Yield the index and the outcome of each sample as soon as it is known; failed jobs come last.

    Args:
        settings: What evaluates them.
        queries: The samples.
        workers: Number of processes; 1 is this process.

    Raises:
        LlavaStError: The model or the media folder cannot be used.
    """
    groups = chunks(queries, CHUNK if workers > 1 else 1)
    jobs = [[queries[i] for i in indices] for indices in groups]
    failed: list[tuple[int, SampleOutcome]] = []
    succeeded, failures = False, 0
    for done in run_jobs(_Worker(settings), jobs, workers=workers):
        indices = groups[done.index]
        if isinstance(done.outcome, JobFailure):
            failures += 1
            if not succeeded and failures >= min(FAILURES, len(jobs)):
                raise BackendError(done.outcome.reason)
            failed += [(i, _failed(settings, queries[i], done.outcome)) for i in indices]
        else:
            succeeded = True
            yield from zip(indices, done.outcome)
    yield from failed


def _failed(settings: RunSettings, query: BenchmarkQuery, failure: JobFailure) -> SampleOutcome:
    return unanswered(query, settings.media, _conventions(settings), failure.reason)


def chunks(queries: Sequence[BenchmarkQuery], size: int) -> list[list[int]]:
    """Return the indices of the samples of each job: at most ``size``, about the same clip."""
    found = []
    for _, group in groupby(range(len(queries)), key=lambda index: clip_key(queries[index])):
        indices = list(group)
        found += [indices[first : first + size] for first in range(0, len(indices), size)]
    return found


def _conventions(settings: RunSettings) -> list[Convention]:
    return [CONVENTIONS[name] for name in settings.conventions]
