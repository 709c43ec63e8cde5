"""Jobs: failures are retried, reported and cost no other job, in every way of running them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from llava_st_ros.errors import BackendError, CheckpointError, DataError
from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster
from llava_st_ros.evaluation.jobs.records import Finished, JobFailure, Progress
from llava_st_ros.evaluation.jobs.run import run_jobs


@dataclass(frozen=True)
class Task:
    """``number`` squared, after the action; ``folder`` keeps what was attempted."""

    number: int
    folder: Path
    action: str = ""


def square(task: Task, progress: Progress) -> int:
    attempt = len(list(task.folder.glob(f"{task.number}-*")))
    (task.folder / f"{task.number}-{attempt}-{os.getpid()}").touch()
    progress(1, 3)
    if task.action == "raise" or (task.action == "raise once" and attempt == 0):
        raise ZeroDivisionError("a fault")
    if task.action == "bad input":
        raise DataError("the bag is empty", "record one")
    if task.action == "exit":
        os._exit(9)
    if task.action == "killed" or (task.action == "killed once" and attempt == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number**2


def start() -> Callable[[Task, Progress], int]:
    return square


def start_without_model() -> Callable[[Task, Progress], int]:
    raise CheckpointError("no checkpoint at /models/x")


@dataclass(frozen=True)
class DyingStart:
    """Dies at each start but those of the given numbers."""

    folder: Path
    survivors: tuple[int, ...] = ()

    def __call__(self) -> Callable[[Task, Progress], int]:
        for number in range(100):
            try:
                (self.folder / f"start-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            if number not in self.survivors:
                os._exit(1)
            return square
        raise AssertionError


def tasks(folder: Path, *actions: str) -> list[Task]:
    return [Task(number, folder, action) for number, action in enumerate(actions)]


def outcomes(finished: list[Finished[int]]) -> dict[int, int | JobFailure]:
    assert len({done.index for done in finished}) == len(finished)
    return {done.index: done.outcome for done in finished}


def attempts(folder: Path, number: int) -> int:
    return len(list(folder.glob(f"{number}-*")))


def processes(folder: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in folder.glob("*-*-*")}


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_fail_their_job_only(tmp_path: Path, workers: int) -> None:
    jobs = tasks(tmp_path, "", "raise", "raise once", "bad input", "")
    assert outcomes(list(run_jobs(start, jobs, workers=workers))) == {
        0: 0,
        1: JobFailure("ZeroDivisionError: a fault (2 attempts)"),
        2: 4,
        3: JobFailure("the bag is empty; record one"),
        4: 16,
    }
    assert [attempts(tmp_path, number) for number in range(5)] == [1, 2, 2, 1, 1]
    assert (str(os.getpid()) in processes(tmp_path)) == (workers == 1)


def test_a_process_that_dies_is_replaced_and_its_job_run_again(tmp_path: Path) -> None:
    jobs = tasks(tmp_path, "", "killed", "", "killed once", "exit")
    assert outcomes(list(run_jobs(start, jobs, workers=2))) == {
        0: 0,
        1: JobFailure("its process died (SIGKILL) (2 attempts)"),
        2: 4,
        3: 9,
        4: JobFailure("its process ended with exit code 9 (2 attempts)"),
    }
    # Only the jobs of the processes that died are repeated.
    assert [attempts(tmp_path, number) for number in range(5)] == [1, 2, 1, 2, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_that_of_the_job(tmp_path: Path, workers: int) -> None:
    seen: list[tuple[int, int, int]] = []

    def on_progress(index: int, done: int, total: int) -> None:
        seen.append((index, done, total))

    jobs = tasks(tmp_path, "", "")
    assert len(list(run_jobs(start, jobs, workers=workers, on_progress=on_progress))) == 2
    assert sorted(seen) == [(0, 1, 3), (1, 1, 3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_fails_ends_the_run(tmp_path: Path, workers: int) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at /models/x"):
        list(run_jobs(start_without_model, tasks(tmp_path, "", ""), workers=workers))
    assert attempts(tmp_path, 0) == 0


def test_processes_that_die_while_they_start(tmp_path: Path) -> None:
    jobs = tasks(tmp_path, "", "", "")
    with pytest.raises(BackendError, match=r"no worker process can start: .*code 1; .* --workers"):
        list(run_jobs(DyingStart(tmp_path), jobs, workers=2))
    for path in tmp_path.iterdir():
        path.unlink()
    # One process that can start is enough.
    finished = list(run_jobs(DyingStart(tmp_path, survivors=(1,)), jobs, workers=2))
    assert outcomes(finished) == {0: 0, 1: 1, 2: 4}
    assert len(processes(tmp_path)) == 1


def test_processes_end_with_the_run(tmp_path: Path) -> None:
    finished = run_jobs(start, tasks(tmp_path, *[""] * 4), workers=2)
    next(finished)
    finished.close()
    for process in processes(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


def test_no_jobs_need_no_start() -> None:
    for workers in (1, 2):
        assert list(run_jobs(start_without_model, [], workers=workers)) == []


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    run = partial(run_jobs, ray=RayCluster("local", workers=2))
    jobs = tasks(tmp_path, "", "raise", "killed once", "bad input", "killed", "")
    found = outcomes(list(run(start, jobs)))
    died = found.pop(4)
    assert isinstance(died, JobFailure)
    assert died.reason.startswith("WorkerCrashedError: ") and died.reason.endswith("(2 attempts)")
    assert found == {
        0: 0,
        1: JobFailure("ZeroDivisionError: a fault (2 attempts)"),
        2: 4,
        3: JobFailure("the bag is empty; record one"),
        5: 25,
    }
    assert [attempts(tmp_path, number) for number in range(6)] == [1, 2, 2, 1, 2, 1]
    with pytest.raises(CheckpointError, match="no checkpoint at /models/x"):
        list(run(start_without_model, tasks(tmp_path, "")))


@pytest.mark.slow
def test_a_ray_cluster_that_cannot_be_used() -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    with pytest.raises(BackendError, match=r"a job needs 1 GPU; the Ray cluster has 0"):
        list(run_jobs(start, [Task(0, Path())], ray=RayCluster("local", workers=1, gpus=1)))
    with pytest.raises(BackendError, match=r"the Ray cluster 'auto' cannot be used: .*; expected"):
        list(run_jobs(start, [Task(0, Path())], ray=RayCluster("auto")))
