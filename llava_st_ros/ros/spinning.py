"""Runs nodes in an executor's threads and ends them in an order that leaves nothing in use."""

from __future__ import annotations

import threading

from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

POLL = 0.1  # seconds


class Spinner:
    """A MultiThreadedExecutor that spins in a thread of its own until ``close``.

    rclpy's own ``shutdown`` returns while callbacks still run in the executor's threads; a node or
    a context destroyed then is pulled from under them.
    """

    def __init__(self, context: Context, threads: int) -> None:
        self._context = context
        self._executor = MultiThreadedExecutor(threads, context=context)
        self._closing, self._ended = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._spin, name="ros-spinner", daemon=True)
        self._thread.start()

    def add(self, node: Node) -> None:
        self._executor.add_node(node)

    def wait(self) -> None:
        """Until the context is shut down or a callback raised; a signal's handler may raise here.

        Not a plain ``join``: one that an exception interrupts takes the thread for ended (CPython
        3.10 to 3.12), and a signal that another thread takes does not wake it.
        """
        while not self._ended.wait(POLL):
            pass

    def close(self) -> None:
        """Return once no callback runs any more: now the nodes may be destroyed.

        Raises what a callback raised, if one did.
        """
        self._closing.set()
        self._executor.wake()
        self._thread.join()
        self._executor._executor.shutdown()  # the pool: nothing public waits for it
        self._executor.shutdown()
        if self._failure is not None:
            raise self._failure

    def _spin(self) -> None:
        try:
            while self._context.ok() and not self._closing.is_set():
                self._executor.spin_once(timeout_sec=POLL)
        except Exception as error:  # of a callback
            self._failure = error
        finally:
            self._ended.set()
