"""Spins nodes in background threads, and stops so that nodes can be destroyed safely."""

from __future__ import annotations

import threading

from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

POLL = 0.1  # seconds


class Spinner:
    """A MultiThreadedExecutor that spins in a thread of its own until ``close``.

    rclpy's ``MultiThreadedExecutor.shutdown`` returns while callbacks still run; destroying a node
    or a context at that point breaks them.

    Args:
        context: The context of the nodes.
        threads: Number of executor threads.
    """

    def __init__(self, context: Context, threads: int) -> None:
        self._context = context
        self._executor = MultiThreadedExecutor(threads, context=context)
        self._close_requested, self._ended = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._spin, name="ros-spinner", daemon=True)
        self._thread.start()

    def add(self, node: Node) -> None:
        self._executor.add_node(node)

    def wait(self) -> None:
        """Wait until the context is shut down or a callback raises.

        An exception from a signal handler ends the wait. That is why this is not a ``join``: in
        CPython 3.10 to 3.12, a ``join`` that an exception interrupts marks the thread as ended,
        and a signal that is delivered to another thread does not wake the main thread.
        """
        while not self._ended.wait(POLL):
            pass

    def close(self) -> None:
        """Stop spinning and wait for running callbacks. The nodes may be destroyed afterwards.

        Raises:
            Exception: The exception of a callback, if one raised.
        """
        self._close_requested.set()
        self._executor.wake()
        self._thread.join()
        self._executor._executor.shutdown()  # the thread pool; no public call waits for it
        self._executor.shutdown()
        if self._failure is not None:
            raise self._failure

    def _spin(self) -> None:
        try:
            while self._context.ok() and not self._close_requested.is_set():
                self._executor.spin_once(timeout_sec=POLL)
        except Exception as error:  # raised by a callback
            self._failure = error
        finally:
            self._ended.set()
