"""Independent jobs of an evaluation, run by this process or several; a job that fails is retried.

What a job returns does not depend on the process that runs it, so neither do the results.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from llava_st_ros.errors import LlavaStError, one_line

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
ATTEMPTS = 2


@dataclass(frozen=True)
class JobFailure:
    """Why a job has no outcome."""

    reason: str


@dataclass(frozen=True)
class Finished(Generic[Outcome]):
    """A job that is finished.

    Attributes:
        index: Its place among the jobs.
        outcome: What it returned, or why it did not.
    """

    index: int
    outcome: Outcome | JobFailure


def run_jobs(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int = 1
) -> Iterator[Finished[Outcome]]:
    """Run jobs and yield each when it is finished, in any order.

    An error of the user's input (LlavaStError) fails its job at once. After another exception, or
    when the process dies (killed for its memory, a fault of a native library), the job is run once
    more, then it fails. The other jobs are not affected.

    Args:
        function: Runs one job; for several processes a function at the top level of a module.
        jobs: The jobs.
        workers: Number of processes; 1 is this process.
    """
    if workers == 1:
        for index, job in enumerate(jobs):
            yield Finished(index, _attempt(function, job))
        return
    finished: set[int] = set()
    for done in _in_pool(function, jobs, range(len(jobs)), workers):
        finished.add(done.index)
        yield done
    # A process died, and it is not known with which job: the rest is run one job at a time.
    for index in range(len(jobs)):
        if index not in finished:
            yield _isolated(function, jobs, index)


def _attempt(function: Callable[[Job], Outcome], job: Job) -> Outcome | JobFailure:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return function(job)
        except LlavaStError as error:
            return JobFailure(str(error))
        except Exception as error:
            if attempt == ATTEMPTS:
                return JobFailure(f"{one_line(error)} ({ATTEMPTS} attempts)")
    raise AssertionError("unreachable")


def _isolated(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], index: int
) -> Finished[Outcome]:
    for _ in range(ATTEMPTS):
        for done in _in_pool(function, jobs, [index], 1):
            return done
    return Finished(index, JobFailure(f"its process died ({ATTEMPTS} attempts)"))


def _in_pool(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], indices: Sequence[int], workers: int
) -> Iterator[Finished[Outcome]]:
    """Yield the jobs that are finished until all are, or a process dies."""
    # Spawned, not forked: neither a GL context nor a CUDA context survives a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts)
    try:
        pending: dict[Future[Outcome | JobFailure], int] = {
            pool.submit(_attempt, function, jobs[index]): index for index in indices
        }
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: pending[future]):
                index = pending.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    return
                yield Finished(index, outcome)
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
