"""The worker's thread and its callers, with a fake Grounder and without ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.errors import BackendError, one_line
from llava_st_ros.grounder import Evaluations
from llava_st_ros.records import EndReason, Frame, Query, Tick
from llava_st_ros.ros.progress import Progress
from llava_st_ros.ros.worker import Worker
from llava_st_ros.streaming.silence import SilenceMonitor

TIMEOUT = 30.0  # seconds
FRAME = Frame(np.zeros((2, 2, 3), np.uint8), 10**9)
QUERY = Query("q", "the red box")


class FakeGrounder:
    """``ask`` returns when ``proceed`` is set."""

    def __init__(self) -> None:
        self.ticked, self.answering, self.proceed = (threading.Event() for _ in range(3))
        self.tick_error: BaseException | None = None

    def reset(self) -> None:
        pass

    def push(self, frame: Frame) -> bool:
        return True

    def evaluate(self, *, cancelled: Callable[[], bool]) -> Evaluations:
        self.ticked.set()
        if self.tick_error is not None:
            raise self.tick_error
        return Evaluations()

    def collect(self, evaluations: Evaluations | None = None) -> Tick:
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


def supervised_worker(
    grounder: FakeGrounder, clock: Callable[[], float]
) -> tuple[Worker, Progress]:
    """A running worker whose inference hangs after 10 s without progress by the clock."""
    progress = Progress(clock)
    worker = Worker(grounder, None, lambda *_: None, lambda error: None, 10.0, progress)
    worker.start()
    worker.resume()
    return worker, progress


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
        except Exception as error:
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


def fail_to_report(error: BaseException) -> None:
    raise ValueError("Logger severity cannot be changed between calls.")


@pytest.mark.parametrize("error", [RuntimeError("device lost"), SystemExit(1)])
def test_nothing_that_a_tick_or_its_report_raises_ends_the_thread(
    grounder: FakeGrounder, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    grounder.tick_error = error
    worker = Worker(grounder, None, lambda *_: None, fail_to_report)
    worker.start()
    worker.resume()
    worker.push(FRAME)
    wait_until(lambda: worker.health.unreported == 1)
    assert one_line(error) in capsys.readouterr().err
    grounder.proceed.set()
    assert Caller(worker).join_outcome() == "the answer"
    assert worker.is_alive and worker.health.restarts == 0
    assert worker.stop(TIMEOUT)


def test_results_that_cannot_be_published_are_reported(grounder: FakeGrounder) -> None:
    def on_tick(*_: object) -> None:
        raise SystemExit("while publishing")

    reported: list[BaseException] = []
    worker = Worker(grounder, None, on_tick, reported.append)
    worker.start()
    worker.resume()
    worker.push(FRAME)
    wait_until(lambda: bool(reported))
    assert isinstance(reported[0], SystemExit)
    grounder.proceed.set()
    assert Caller(worker).join_outcome() == "the answer"
    assert worker.stop(TIMEOUT)


def test_answer_that_exits_is_an_error_of_its_caller_only(
    worker: Worker, grounder: FakeGrounder
) -> None:
    def ask(*_: object, **__: object) -> str:
        raise SystemExit(3)

    answer, grounder.ask = grounder.ask, ask
    assert "SystemExit: 3" in str(Caller(worker).join_outcome())
    grounder.ask = answer
    grounder.proceed.set()
    assert Caller(worker).join_outcome() == "the answer"
    assert worker.health.restarts == 0


def test_thread_that_ends_is_replaced_and_its_caller_released(
    worker: Worker, grounder: FakeGrounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise MemoryError("in the worker itself")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_answer", end)
        running = Caller(worker)
        outcome = running.join_outcome()
    assert isinstance(outcome, BackendError)
    assert "the worker thread ended" in str(outcome)
    wait_until(lambda: not worker.is_alive)
    waiting = Caller(worker)
    wait_until(lambda: worker.pending == 1)
    health = worker.supervise()
    assert (health.restarts, worker.is_alive) == (1, True)
    assert "in the worker itself" in health.last_end
    grounder.proceed.set()
    assert waiting.join_outcome() == "the answer"
    assert worker.pause(TIMEOUT)
    worker.supervise()
    assert worker.health.restarts == 1


def test_stalled_inference_is_reported_and_its_callers_are_released(
    worker: Worker, grounder: FakeGrounder
) -> None:
    worker.watchdog_seconds = 0.2
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    waiting = Caller(worker)
    wait_until(lambda: worker.pending == 2)
    assert worker.supervise().stall is None
    wait_until(lambda: worker.supervise().stall is not None)
    stall = worker.health.stall
    assert stall is not None and stall.seconds > 0.2
    assert stall.location.startswith("test_worker.py:")
    for caller in (running, waiting, Caller(worker)):
        assert "the inference is hung: no progress for" in str(caller.join_outcome())
    grounder.proceed.set()
    wait_until(lambda: worker.supervise().stall is None)
    assert Caller(worker).join_outcome() == "the answer"
    assert worker.health.restarts == 0


def test_progress_is_not_a_stall(grounder: FakeGrounder) -> None:
    now = [0.0]
    worker, progress = supervised_worker(grounder, lambda: now[0])
    caller = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    for _ in range(3):
        now[0] += 9.0
        assert worker.supervise().stall is None
        progress.mark()
    grounder.proceed.set()
    assert caller.join_outcome() == "the answer"
    now[0] += 100.0  # idle
    assert worker.supervise().stall is None
    assert worker.stop(TIMEOUT)


def test_a_hung_inference_is_reported_to_the_grounder_while_the_worker_runs(
    grounder: FakeGrounder,
) -> None:
    now = [0.0]
    reports: list[float] = []
    grounder.set_hung = lambda: reports.append(now[0])
    worker, progress = supervised_worker(grounder, lambda: now[0])
    caller = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    for now[0] in (9.0, 11.0, 12.0):
        worker.refresh()
    progress.mark()
    worker.refresh()
    assert reports == [11.0, 12.0]
    now[0] = 30.0
    assert not worker.pause(0.01)  # the node ends all events itself
    worker.refresh()
    grounder.proceed.set()
    caller.join_outcome()
    assert worker.stop(TIMEOUT)
    assert reports == [11.0, 12.0]


@pytest.mark.parametrize("end", ["pause", "stop"])
def test_callers_are_released_when_an_inference_does_not_end(
    grounder: FakeGrounder, end: str
) -> None:
    worker = Worker(grounder, None, lambda *_: None, lambda error: None)
    worker.start()
    worker.resume()
    running = Caller(worker)
    assert grounder.answering.wait(TIMEOUT)
    started = time.monotonic()
    assert not getattr(worker, end)(0.3)
    assert 0.3 <= time.monotonic() - started < TIMEOUT
    assert "did not end within 0.3 s" in str(running.join_outcome())  # it still blocks
    worker.resume()
    grounder.proceed.set()
    if end == "pause":  # the late answer of the earlier stream is dropped
        assert Caller(worker).join_outcome() == "the answer"
    assert worker.stop(TIMEOUT)


def test_no_camera_is_silent_while_the_worker_is_paused() -> None:
    """An inactive node would say so about every camera otherwise."""
    now = 0
    silences: list[str] = []
    grounder = FakeGrounder()
    grounder.set_silence = lambda camera, duration: silences.append(camera)
    monitor = SilenceMonitor(lambda: now)
    worker = Worker(grounder, None, lambda *_: None, lambda error: None, silence=monitor)
    worker.start()
    worker.resume()
    worker.push(FRAME)

    def pass_time() -> Mapping[str, int]:
        nonlocal now
        for _ in range(6):
            now += 500_000_000
            silent = worker.refresh()
        return silent

    assert pass_time() == {FRAME.camera: 3_000_000_000}
    assert worker.pause(TIMEOUT)
    seen = len(silences)
    assert pass_time() == {}
    assert len(silences) == seen
    worker.resume()
    assert pass_time() == {}  # no image since then
    assert worker.stop(TIMEOUT)


def test_results_that_are_still_being_published_are_reported_at_the_end(
    grounder: FakeGrounder,
) -> None:
    entered, proceed = threading.Event(), threading.Event()

    def publish_slowly(*_: object) -> None:
        entered.set()
        assert proceed.wait(TIMEOUT)

    worker = Worker(grounder, None, publish_slowly, lambda error: None)
    worker.start()
    worker.resume()
    worker.push(FRAME)
    assert entered.wait(TIMEOUT)
    assert not worker.pause(0.01)
    assert not worker.end_streams(EndReason.DEACTIVATED, 0.01)
    proceed.set()
    assert worker.stop(TIMEOUT)


def test_result_of_a_tick_before_a_pause_is_dropped(grounder: FakeGrounder) -> None:
    published: list[object] = []
    worker = Worker(grounder, None, lambda *_: published.append(1), lambda error: None)
    entered, proceed = threading.Event(), threading.Event()

    def slow_tick(*, cancelled: Callable[[], bool]) -> Evaluations:
        entered.set()
        assert proceed.wait(TIMEOUT)
        return Evaluations()

    grounder.evaluate = slow_tick
    worker.start()
    worker.resume()
    worker.push(FRAME)
    assert entered.wait(TIMEOUT)
    assert not worker.pause(0.01)
    worker.resume()  # another stream
    proceed.set()
    assert worker.pause(TIMEOUT)
    assert not published
    assert worker.stop(TIMEOUT)
