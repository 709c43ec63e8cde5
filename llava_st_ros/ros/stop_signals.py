"""SIGINT, SIGTERM and SIGHUP: a request to stop, and the guarantee that the process ends.

Imports nothing slow, so that the signals are handled before the slow imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llava_st_ros.ros.deadline import Deadline
from llava_st_ros.ros.thread_location import location_of

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed
GRACE = 0.7  # seconds after the deadline until the process ends without an orderly shutdown
WRITE_SECONDS = 0.1
EXIT_ABANDONED = 3  # the exit code if something had to be abandoned


class StopSignals:
    """Handles the stop signals from entering to leaving the context, which the main thread must do.

    The first signal starts a deadline; further ones have no effect. When the deadline and GRACE
    have passed, the process ends with EXIT_ABANDONED whatever its threads are doing. The signals
    stay ignored after the context, so that one that arrives while the interpreter exits does not
    change the exit code.

    A thread reads the signals from a pipe, because the main thread runs Python's signal handlers
    only when it returns to Python: not while it loads a model in native code.

    Attributes:
        timeout: Seconds from the first signal to the deadline; may be changed until then.
    """

    def __init__(self, timeout: float = 8.0) -> None:
        self.timeout = timeout
        self._lock = threading.RLock()  # a signal handler may interrupt its holder
        self._deadline: Deadline | None = None
        self._interrupts_main = False
        self._finished = threading.Event()
        self._reader, self._writer = -1, -1

    @property
    def is_requested(self) -> bool:
        """Whether a stop signal has arrived."""
        return self._deadline is not None

    @property
    def deadline(self) -> Deadline:
        """The time limit of the shutdown. It starts now if no signal has arrived."""
        with self._lock:
            if self._deadline is None:
                self._deadline = Deadline(self.timeout)
                threading.Thread(target=self._enforce, name="stop-deadline", daemon=True).start()
            return self._deadline

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal raise KeyboardInterrupt in the main thread: it starts up."""
        self._interrupts_main = True
        try:
            if self.is_requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupts_main = False

    def __enter__(self) -> StopSignals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        threading.Thread(target=self._read, name="stop-signals", daemon=True).start()
        for number in STOP_SIGNALS:
            # nohup ignores SIGHUP. A shell's background jobs ignore SIGINT, but launch sends it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._finished.set()
        os.close(self._writer)  # ends the reading thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        _ = self.deadline
        if self._interrupts_main:
            self._interrupts_main = False
            raise KeyboardInterrupt

    def _read(self) -> None:
        while received := os.read(self._reader, 64):
            if any(number in received for number in STOP_SIGNALS):
                _ = self.deadline
        os.close(self._reader)

    def _enforce(self) -> None:
        deadline = self.deadline
        if self._finished.wait(deadline.remaining + GRACE):
            return
        leave(f"the node did not stop within {self.timeout:g} s")


def leave(problem: str) -> None:
    """End the process at once with EXIT_ABANDONED, and report why in one line."""
    own = ("stop-signals", "stop-deadline", "last-line")
    threads = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and thread.name not in own
    ]
    running = ", ".join(f"{t.name} at {location_of(t) or 'an unknown line'}" for t in threads)
    line = f"grounding: {problem}; still running: {running or 'nothing'}\n"

    def write() -> None:
        sys.stderr.write(line)
        for stream in (sys.stderr, sys.stdout):
            stream.flush()

    # Writing blocks if nobody reads the output.
    writer = threading.Thread(target=write, name="last-line", daemon=True)
    writer.start()
    writer.join(WRITE_SECONDS)
    os._exit(EXIT_ABANDONED)
