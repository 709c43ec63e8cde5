"""What the ways of running jobs have in common: the work, its progress, its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llava_st_ros.errors import LlavaStError, one_line

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

# Called by the work with the amounts done and in all of the present job.
Progress = Callable[[int, int], None]
# Runs one job. What it returns does not depend on the process.
Work = Callable[[Job, Progress], Outcome]
# Called once in each process, e.g. to load a model. It is sent to other processes and compared
# there: a function at the top level of a module, or a frozen dataclass with __call__.
Start = Callable[[], Work[Any, Any]]
# Called with a job's index, and the amounts done and in all of this job.
OnProgress = Callable[[int, int, int], None]

ATTEMPTS = 2


def ignore_progress(index: int, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class JobFailure:
    """Why a job has no outcome."""

    reason: str


@dataclass(frozen=True)
class Finished(Generic[Outcome]):
    """A job that is finished.

    Attributes:
        index: Its position among the jobs.
        outcome: What it returned, or why it did not.
    """

    index: int
    outcome: Outcome | JobFailure


def attempt(work: Work[Job, Outcome], job: Job, progress: Progress) -> Outcome | JobFailure:
    """Run a job. It fails with an error of its input, or if it raises another exception twice."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return work(job, progress)
        except LlavaStError as error:
            return JobFailure(str(error))
        except Exception as error:
            if number == ATTEMPTS:
                return JobFailure(f"{one_line(error)} ({ATTEMPTS} attempts)")
    raise AssertionError("unreachable")
