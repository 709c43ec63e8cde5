"""Jobs: failures are retried, reported and cost no other job, in one process and in several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.jobs import Finished, JobFailure, run_jobs


@dataclass(frozen=True)
class Task:
    """``number`` squared, after the action; ``folder`` keeps what was attempted."""

    number: int
    folder: Path
    action: str = ""


def square(task: Task) -> int:
    attempt = len(list(task.folder.glob(f"{task.number}-*")))
    (task.folder / f"{task.number}-{attempt}").touch()
    if task.action == "raise" or (task.action == "raise once" and attempt == 0):
        raise ZeroDivisionError("a fault")
    if task.action == "bad input":
        raise DataError("the bag is empty", "record one")
    if task.action == "die" or (task.action == "die once" and attempt == 0):
        os._exit(9)
    return task.number**2


def run(tasks: list[Task], workers: int) -> dict[int, int | JobFailure]:
    finished: list[Finished[int]] = list(run_jobs(square, tasks, workers))
    assert len({done.index for done in finished}) == len(finished)
    return {done.index: done.outcome for done in finished}


def attempts(folder: Path, number: int) -> int:
    return len(list(folder.glob(f"{number}-*")))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_fail_their_job_only(tmp_path: Path, workers: int) -> None:
    actions = ("", "raise", "raise once", "bad input", "")
    outcomes = run([Task(n, tmp_path, action) for n, action in enumerate(actions)], workers)
    assert outcomes == {
        0: 0,
        1: JobFailure("ZeroDivisionError: a fault (2 attempts)"),
        2: 4,
        3: JobFailure("the bag is empty; record one"),
        4: 16,
    }
    assert [attempts(tmp_path, number) for number in range(5)] == [1, 2, 2, 1, 1]


def test_a_process_that_dies_is_replaced_and_its_job_run_again(tmp_path: Path) -> None:
    actions = ("", "die", "", "die once", "")
    outcomes = run([Task(n, tmp_path, action) for n, action in enumerate(actions)], 2)
    assert outcomes == {0: 0, 1: JobFailure("its process died (2 attempts)"), 2: 4, 3: 9, 4: 16}


def test_no_jobs() -> None:
    assert run([], 1) == run([], 2) == {}
