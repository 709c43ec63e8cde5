"""Runs independent jobs; one that fails is retried, and costs no other job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from llava_st_ros.evaluation.jobs.processes import run_in_processes
from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster, run_on_ray
from llava_st_ros.evaluation.jobs.records import (
    Finished,
    Job,
    OnProgress,
    Start,
    attempt,
    ignore_progress,
)


def run_jobs(
    start: Start,
    jobs: Sequence[Job],
    *,
    workers: int = 1,
    ray: RayCluster | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[Finished[Any]]:
    """Run jobs and yield each when it is finished, in any order.

    An error of the user's input (LlavaStError) fails its job at once. After another exception, or
    when the process dies (killed for its memory, a fault of a native library), the job is run once
    more, then it fails. The other jobs are not affected.

    Args:
        start: Returns what runs a job; called once in each process, in none if there is no job.
        jobs: The jobs.
        workers: Number of processes; 1 is this process.
        ray: The cluster that runs them instead.
        on_progress: Called while a job runs. Jobs on a cluster do not report.

    Raises:
        LlavaStError: ``start`` raised it, no worker process could start, or the cluster cannot be
            used. The remaining jobs are not run.
    """
    if not jobs:
        return
    if ray is not None:
        yield from run_on_ray(start, jobs, ray)
    elif workers > 1:
        yield from run_in_processes(start, jobs, workers, on_progress)
    else:
        work = start()
        for index, job in enumerate(jobs):
            yield Finished(index, attempt(work, job, partial(on_progress, index)))
