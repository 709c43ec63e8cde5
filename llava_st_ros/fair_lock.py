"""A lock that serves its waiters in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A mutex for ``with``: a thread that takes it again and again cannot starve the others.

    ``threading.Lock`` may go to whoever asks next, and a busy worker always does.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._gates: deque[threading.Lock] = deque()  # of the waiters, each shut until its turn

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        with self._guard:
            return len(self._gates)

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()  # handed over while still held
        except BaseException:  # an interrupt: the turn must not be lost with this thread
            with self._guard:
                if gate in self._gates:
                    self._gates.remove(gate)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._held = False
