"""The worker's thread and its callers, with a fake Grounder and without ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.errors import BackendError
from llava_st_ros.records import Frame, Query, Tick
from llava_st_ros.ros.worker import Worker

TIMEOUT = 30.0  # seconds
FRAME = Frame(np.zeros((2, 2, 3), np.uint8), 10**9)
QUERY = Query("q", "the red box")


class FakeGrounder:
    """``ask`` returns when ``proceed`` is set."""

    def __init__(self) -> None:
        self.ticked, self.answering, self.proceed = (threading.Event() for _ in range(3))

    def reset(self) -> None:
        pass

    def push(self, frame: Frame) -> None:
        pass

    def tick(self, now: int, cancelled: Callable[[], bool]) -> Tick:
        self.ticked.set()
        return Tick()

    def ask(self, query: Query, *, cancelled: Callable[[], bool], **_: object) -> str:
        self.answering.set()
        assert self.proceed.wait(TIMEOUT)
        return "the answer"


@pytest.fixture
def grounder() -> FakeGrounder:
    return FakeGrounder()


@pytest.fixture
def worker(grounder: FakeGrounder) -> Iterator[Worker]:
    worker = Worker(grounder, None, lambda *_: None, lambda error: None)
    worker.start()
    worker.resume()
    yield worker
    grounder.proceed.set()
    assert worker.stop(TIMEOUT)


class Caller(threading.Thread):
    """Calls ``ask`` in a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(daemon=True)
        self.worker, self.cancelled = worker, threading.Event()
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.worker.ask(
                QUERY, camera=None, on_token=lambda _: None, cancelled=self.cancelled.is_set
            )
        except BackendError as error:
            self.outcome = error

    def join_outcome(self) -> object:
        self.join(TIMEOUT)
        assert not self.is_alive()
        return self.outcome


def wakeups(thread: threading.Thread) -> int:
    """Return how often a thread has gone to sleep, as counted by the kernel."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
    return int(line.split()[1])


def is_asleep(thread: threading.Thread) -> bool:
    before = wakeups(thread)
    time.sleep(0.2)
    return wakeups(thread) == before


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_idle_worker_and_waiting_callers_do_not_wake_up(
    worker: Worker, grounder: FakeGrounder
) -> None:
    (thread,) = (t for t in threading.enumerate() if t.name == "llava-st-worker")
    worker.push(FRAME)
    assert grounder.ticked.wait(TIMEOUT)
    wait_until(lambda: is_asleep(thread))
    before = wakeups(thread)
    time.sleep(0.5)
    assert wakeups(thread) == before  # idle

    running, waiting = Caller(worker), Caller(worker)
    wait_until(lambda: worker.pending == 2 and grounder.answering.is_set())
    callers = (running, waiting)
    wait_until(lambda: all(is_asleep(caller) for caller in callers))
    before_each = [wakeups(caller) for caller in callers]
    time.sleep(0.5)
    assert [wakeups(caller) for caller in callers] == before_each
    grounder.proceed.set()
    assert [caller.join_outcome() for caller in callers] == ["the answer"] * 2


def test_check_cancelled_withdraws_a_waiting_query(worker: Worker, grounder: FakeGrounder) -> None:
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    waiting = Caller(worker)
    wait_until(lambda: worker.pending == 2)
    waiting.cancelled.set()
    worker.check_cancelled()
    assert isinstance(waiting.join_outcome(), BackendError)
    assert worker.pending == 1
    grounder.proceed.set()
    assert running.join_outcome() == "the answer"


def test_stop_is_final(worker: Worker, grounder: FakeGrounder) -> None:
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    assert not worker.stop(0.01)  # the running query blocks
    assert not worker.pause(0.01)
    worker.resume()
    assert "the node is inactive" in str(Caller(worker).join_outcome())
    grounder.proceed.set()
    wait_until(lambda: not worker.is_alive)
    assert isinstance(running.join_outcome(), BackendError)


def test_query_is_withdrawn_if_cancelled_raises(worker: Worker, grounder: FakeGrounder) -> None:
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)

    def cancelled() -> bool:
        raise RuntimeError("the goal is destroyed")

    with pytest.raises(RuntimeError, match="the goal is destroyed"):
        worker.ask(QUERY, camera=None, on_token=lambda _: None, cancelled=cancelled)
    assert worker.pending == 1
    grounder.proceed.set()
    assert running.join_outcome() == "the answer"


def test_pausing_rejects_waiting_and_later_queries(worker: Worker, grounder: FakeGrounder) -> None:
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    waiting = Caller(worker)
    wait_until(lambda: worker.pending == 2)
    assert not worker.pause(0.01)  # the running query blocks
    assert "the node was deactivated" in str(waiting.join_outcome())
    assert "the node is inactive" in str(Caller(worker).join_outcome())
    grounder.proceed.set()
    assert worker.pause(TIMEOUT)
    assert "the node was deactivated" in str(running.join_outcome())
    worker.resume()
    assert Caller(worker).join_outcome() == "the answer"
