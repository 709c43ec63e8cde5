"""Jobs on a Ray cluster: each is a task.

The package and the paths that a job names must be the same on every node. Ray is imported when it
is used (extra ``ray``).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from llava_st_ros.errors import BackendError, LlavaStError, one_line
from llava_st_ros.evaluation.jobs.records import (
    ATTEMPTS,
    Finished,
    Job,
    JobFailure,
    Start,
    Work,
    attempt,
)

LOCAL = "local"
# Outcomes are small. Ray's default is a share of the memory, more than many /dev/shm have.
LOCAL_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class RayCluster:
    """A cluster, and what jobs use of it.

    Attributes:
        address: "local" starts one on this machine for the time of the run; "auto" is the one of
            which this machine is a node; "HOST:PORT"; "ray://HOST:PORT" is one through its client
            server.
        workers: Most jobs at a time; None for as many as the cluster's CPUs, or GPUs, can run.
        gpus: GPUs of each job.
    """

    address: str
    workers: int | None = None
    gpus: int = 0


@dataclass(frozen=True)
class _StartFailure:
    error: LlavaStError


def run_on_ray(start: Start, jobs: Sequence[Job], cluster: RayCluster) -> Iterator[Finished[Any]]:
    """Run jobs on a cluster; arguments and errors are those of ``run_jobs``.

    Raises:
        ImportError: Ray is not installed.
    """
    # Without this, a cluster that is started here reports its use to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    _connect(ray, cluster)
    running: dict[Any, int] = {}
    try:
        _check_gpus(ray, cluster)
        # An attempt that dies is repeated here, so that both ways of running jobs agree.
        task: Any = ray.remote(num_cpus=1, num_gpus=cluster.gpus, max_retries=0)(_run)
        shared = ray.put(start)
        waiting, deaths = deque(range(len(jobs))), Counter[int]()
        while waiting or running:
            while waiting and len(running) < (cluster.workers or len(jobs)):
                index = waiting.popleft()
                running[task.remote(shared, jobs[index])] = index
            for reference in ray.wait(list(running))[0]:
                index = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    deaths[index] += 1
                    if deaths[index] < ATTEMPTS:
                        waiting.appendleft(index)
                        continue
                    outcome = JobFailure(f"{_reason(error)} ({ATTEMPTS} attempts)")
                if isinstance(outcome, _StartFailure):
                    raise outcome.error
                yield Finished(index, outcome)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _connect(ray: Any, cluster: RayCluster) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == LOCAL:
        options |= {
            "num_cpus": cluster.workers,
            "include_dashboard": False,
            "object_store_memory": LOCAL_STORE_BYTES,
        }
    else:
        options["address"] = cluster.address
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _same_imports():
            ray.init(**options)
    except Exception as error:  # of many kinds, and none of its own
        raise BackendError(
            f"the Ray cluster {cluster.address!r} cannot be used: {one_line(error)}",
            "expected local, auto, HOST:PORT or ray://HOST:PORT of a running cluster",
        ) from error
    if is_main:
        signal.signal(signal.SIGTERM, handler)  # Ray's ends the process at once


@contextmanager
def _same_imports() -> Iterator[None]:
    """Let the processes of a cluster that starts in the block find what this process imports."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _check_gpus(ray: Any, cluster: RayCluster) -> None:
    """Raise BackendError if no job could ever run."""
    available = ray.cluster_resources().get("GPU", 0)
    if available < cluster.gpus:
        raise BackendError(
            f"a job needs {cluster.gpus} GPU; the Ray cluster has {available:g}",
            "use --device cpu",
        )


def _run(start: Start, job: Job) -> Any:
    """Run a job on a node."""
    try:
        work = _work(start)
    except LlavaStError as error:
        return _StartFailure(error)
    return attempt(work, job, lambda done, total: None)


@cache
def _work(start: Start) -> Work[Any, Any]:
    """Return this process's work: Ray keeps processes from task to task."""
    return start()


def _reason(error: BaseException) -> str:
    """The kind of an error of Ray, and the last line of its text, which may have a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
