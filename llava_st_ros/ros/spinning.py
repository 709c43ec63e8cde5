"""Spins nodes in background threads, and stops so that nodes can be destroyed safely."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import MultiThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Task

from llava_st_ros.errors import one_line
from llava_st_ros.ros.deadline import Deadline

POLL = 0.1  # seconds
MAX_WAIT_FAILURES = 20  # consecutive failures of the executor itself after which spinning ends


def log_callback_error(error: Exception) -> None:
    """Log the exception of a callback with its traceback."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    get_logger("spinner").error(f"a callback raised {one_line(error)}:\n{trace}")


class TaskPool:
    """The threads of a MultiThreadedExecutor; ``submit`` waits until a thread begins the task.

    The executor offers a task again until it has begun and submits it each time, without waiting
    in between (https://github.com/ros2/rclpy/pull/1547). Under load its loop then keeps Python's
    global lock from the thread that should begin, and the tasks that it has kept slow down each
    turn: four callbacks per second instead of hundreds.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "ros-callback")
        self._begun: dict[Task, threading.Event] = {}  # of the tasks that no thread has begun

    def submit(self, task: Task) -> None:
        """Have a thread run a task, unless it is already waiting for one; wait at most POLL."""
        begun = self._begun.get(task)
        if begun is None:
            begun = self._begun[task] = threading.Event()
            self._threads.submit(self._run, task, begun)
        begun.wait(POLL)

    def shutdown(self) -> None:
        """Wait for the tasks."""
        self._threads.shutdown()

    def _run(self, task: Task, begun: threading.Event) -> None:
        del self._begun[task]
        begun.set()
        task()


class Spinner:
    """A MultiThreadedExecutor that spins in a thread of its own until ``close``.

    rclpy's ``MultiThreadedExecutor.shutdown`` returns while callbacks still run; destroying a node
    or a context at that point breaks them. rclpy also stops spinning when a callback raises; here
    the exception is reported and spinning continues. (InvalidHandle is not reported: a message was
    pending when its subscription was destroyed.)

    Args:
        context: The context of the nodes.
        threads: Number of executor threads.
        on_error: Called with the exception of a callback.
    """

    def __init__(
        self,
        context: Context,
        threads: int,
        on_error: Callable[[Exception], None] = log_callback_error,
    ) -> None:
        self._context, self._on_error = context, on_error
        self._executor = MultiThreadedExecutor(threads, context=context)
        self._pool = TaskPool(threads)
        self._executor._executor = self._pool  # type: ignore[assignment]
        self._close_requested, self._ended = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._spin, name="ros-spinner", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why spinning ended although nobody asked for it; else None."""
        return self._failure

    def add(self, node: Node) -> None:
        self._executor.add_node(node)

    def wait(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        """Wait until the context is shut down, spinning fails, or ``stop_requested`` is true.

        An exception from a signal handler ends the wait. That is why this is not a ``join``: in
        CPython 3.10 to 3.12, a ``join`` that an exception interrupts marks the thread as ended,
        and a signal that is delivered to another thread does not wake the main thread.
        """
        while not stop_requested() and not self._ended.wait(POLL):
            pass

    def close(self, timeout: float | None = None) -> bool:
        """Stop spinning and wait for running callbacks.

        Args:
            timeout: Seconds to wait; None for no limit.

        Returns:
            Whether all callbacks have ended: only then may the nodes be destroyed, and only then
            can the interpreter exit (it joins the executor's threads).
        """
        deadline = Deadline(float("inf") if timeout is None else timeout)
        self._close_requested.set()
        self._executor.wake()
        # The thread pool has no shutdown with a timeout, so a thread waits for it.
        closer = threading.Thread(target=self._close, name="ros-spinner-close", daemon=True)
        closer.start()
        closer.join(None if timeout is None else deadline.remaining)
        return not closer.is_alive()

    def _close(self) -> None:
        self._thread.join()
        self._pool.shutdown()
        self._executor.shutdown()

    def _spin(self) -> None:
        wait_failures = 0
        try:
            while self._context.ok() and not self._close_requested.is_set():
                try:
                    self._executor.spin_once(timeout_sec=POLL)
                    wait_failures = 0
                except Exception as error:
                    if not self._context.ok() or self._close_requested.is_set():
                        return
                    if not isinstance(error, InvalidHandle):
                        self._report(error)
                    if _is_from_callback(error):
                        continue
                    wait_failures += 1
                    if wait_failures >= MAX_WAIT_FAILURES:
                        self._failure = error
                        return
                    self._close_requested.wait(POLL)
        finally:
            self._ended.set()

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception as second:  # reporting must not end the spinning
            log_callback_error(second)


def _is_from_callback(error: Exception) -> bool:
    """Whether a callback raised the exception, not the executor itself."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code is Task.__call__.__code__ for frame in frames)
