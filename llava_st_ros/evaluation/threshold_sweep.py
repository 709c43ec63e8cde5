"""Values of ``no_match_threshold`` compared on the same answers: the model runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag, stream_rows
from llava_st_ros.evaluation.bag_run import BagWorker
from llava_st_ros.evaluation.jobs.records import (
    JobFailure,
    OnProgress,
    Progress,
    Work,
    ignore_progress,
)
from llava_st_ros.evaluation.jobs.run import run_jobs
from llava_st_ros.evaluation.remembered_answers import EyelessBackend, Key, RememberingRunner
from llava_st_ros.evaluation.results import Case, MetricRow
from llava_st_ros.records import Grounding
from llava_st_ros.text.tokenizer import Tokenizer

CasesByThreshold = Mapping[float, Sequence[Case]]


def sweep_thresholds(
    jobs: Sequence[BagJob],
    worker: BagWorker,
    thresholds: Sequence[float],
    workers: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> dict[float, list[MetricRow]]:
    """Return the figures of bags for each threshold.

    Args:
        jobs: The bags, each with one annotated camera.
        worker: What answers.
        thresholds: Values of ``no_match_threshold``.
        workers: Number of processes; 1 is this process.
        on_progress: As for ``run_jobs``.

    Raises:
        BackendError: A bag could not be evaluated.
        LlavaStError: As ``run_jobs`` does.
    """
    found: dict[int, CasesByThreshold] = {}
    start = _SweepWorker(worker, tuple(thresholds))
    for done in run_jobs(start, jobs, workers=workers, on_progress=on_progress):
        if isinstance(done.outcome, JobFailure):
            raise BackendError(f"{jobs[done.index].name}: {done.outcome.reason}")
        found[done.index] = done.outcome
    return {
        value: stream_rows([case for index in sorted(found) for case in found[index][value]])
        for value in thresholds
    }


def sweep_bag(
    job: BagJob,
    backend: Backend,
    tokenizer: Tokenizer,
    thresholds: Sequence[float],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CasesByThreshold:
    """Return the cases of a bag with one annotated camera for each threshold.

    Args:
        job: The bag; the threshold of its config is not used.
        backend: The model.
        tokenizer: Its tokenizer.
        thresholds: Values of ``no_match_threshold``.
        on_progress: As for ``evaluate_bag``; called for the first threshold only.

    Raises:
        DataError: As ``evaluate_bag`` does.
    """
    answers: dict[Key, Grounding] = {}
    cases: dict[float, Sequence[Case]] = {}
    for value in thresholds:
        config = replace(job.config, no_match_threshold=value)
        runner = RememberingRunner(backend, tokenizer, config, answers)
        job = replace(job, config=config)
        cases[value] = evaluate_bag(job, backend, tokenizer, on_progress, runner=runner).cases
        if len(cases) == 1:
            backend, on_progress = EyelessBackend(backend), lambda done, total: None
    return cases


@dataclass(frozen=True)
class _SweepWorker:
    """Sweeps bags in a process: calling it loads the model and returns the work."""

    worker: BagWorker
    thresholds: tuple[float, ...]

    def __call__(self) -> Work[BagJob, CasesByThreshold]:
        backend, tokenizer = self.worker.load(self.worker.model)
        return partial(self._sweep, backend, tokenizer)

    def _sweep(
        self, backend: Backend, tokenizer: Tokenizer, job: BagJob, progress: Progress
    ) -> CasesByThreshold:
        return sweep_bag(job, backend, tokenizer, self.thresholds, progress)
