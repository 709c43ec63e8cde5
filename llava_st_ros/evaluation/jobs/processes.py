"""Jobs in several processes of this machine. A process that dies costs one attempt of its job.

``concurrent.futures`` gives up all jobs when one of its processes dies, and does not report which
job that was. Here each process has a pipe of its own, so that the job is known and only it is
repeated.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from llava_st_ros.errors import BackendError, LlavaStError, one_line
from llava_st_ros.evaluation.jobs.records import (
    ATTEMPTS,
    Finished,
    Job,
    JobFailure,
    OnProgress,
    Start,
    attempt,
)

PROGRESS_SECONDS = 0.2  # between two reports of a process
STOP_SECONDS = 5.0  # for a process to end after SIGTERM, before SIGKILL


@dataclass(frozen=True)
class _Ready:
    """The process has started."""


@dataclass(frozen=True)
class _Done:
    """A part of the present job is done."""

    done: int
    total: int


def run_in_processes(
    start: Start, jobs: Sequence[Job], workers: int, on_progress: OnProgress
) -> Iterator[Finished[Any]]:
    """Run jobs in ``workers`` processes; arguments and errors are those of ``run_jobs``."""
    pool = _Pool(start, jobs, workers)
    try:
        while pool.processes:
            ready = wait([process.connection for process in pool.processes])
            for process in [p for p in pool.processes if p.connection in ready]:
                message = process.receive()
                if isinstance(message, _Done):
                    if process.job is not None:
                        on_progress(process.job, message.done, message.total)
                elif isinstance(message, LlavaStError):
                    raise message
                elif message is None:
                    failed = pool.replace(process)
                    if failed is not None:
                        yield failed
                else:
                    pool.give_next(process)
                    if isinstance(message, Finished):
                        yield message
    finally:
        pool.stop()


class _Process:
    """A process and the job that it has; None while it starts."""

    def __init__(self, start: Start) -> None:
        # Spawned, not forked: neither a GL context nor a CUDA context survives a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: int | None = None
        self.process = context.Process(target=_serve, args=(start, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends with the process

    def receive(self) -> Any:
        """Return the next message; None if the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def how_it_died(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its process died ({name})"


class _Pool:
    def __init__(self, start: Start, jobs: Sequence[Any], workers: int) -> None:
        self._start, self._jobs = start, jobs
        self._waiting = deque(range(len(jobs)))
        self._deaths: Counter[int] = Counter()
        self._failed_starts = 0
        self.processes: list[_Process] = []
        for _ in range(min(workers, len(jobs))):
            self.processes.append(_Process(start))

    def give_next(self, process: _Process) -> None:
        """Give a process its next job, or end it if there is none."""
        if not self._waiting:
            self._remove(process)
            return
        process.job = self._waiting.popleft()
        # If it has died meanwhile, its connection ends, and the job is repeated.
        with suppress(BrokenPipeError, ConnectionResetError):
            process.connection.send((process.job, self._jobs[process.job]))

    def replace(self, process: _Process) -> Finished[Any] | None:
        """Repeat the job of a process that died in another; return it if it has failed."""
        reason = process.how_it_died()
        self._remove(process)
        failed: Finished[Any] | None = None
        if process.job is None:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                if not self.processes and self._waiting:
                    raise BackendError(
                        f"no worker process can start: {reason}",
                        "it may lack memory: use fewer --workers",
                    )
                return None  # the other processes continue
        else:
            self._deaths[process.job] += 1
            if self._deaths[process.job] < ATTEMPTS:
                self._waiting.appendleft(process.job)
            else:
                failed = Finished(process.job, JobFailure(f"{reason} ({ATTEMPTS} attempts)"))
        if self._waiting:
            self.processes.append(_Process(self._start))
        return failed

    def stop(self) -> None:
        """End all processes."""
        for process in list(self.processes):
            process.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in list(self.processes):
            process.process.join(max(0.0, deadline - time.monotonic()))
            process.process.kill()
            self._remove(process)

    def _remove(self, process: _Process) -> None:
        process.connection.close()
        self.processes.remove(process)


def _serve(start: Start, connection: Connection) -> None:
    """Run the jobs that are received through the connection, until it ends."""
    # A terminal sends Ctrl-C to all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = start()
    except LlavaStError as error:
        connection.send(error)
        return
    except Exception as error:
        connection.send(BackendError(f"a worker process cannot start: {one_line(error)}"))
        return
    connection.send(_Ready())
    while True:
        try:
            index, job = connection.recv()
        except EOFError:
            return
        connection.send(Finished(index, attempt(work, job, _Throttle(connection))))


class _Throttle:
    """Sends the progress of a job, now and then."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._sent = connection, 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._sent >= PROGRESS_SECONDS:
            self._sent = now
            self._connection.send(_Done(done, total))
