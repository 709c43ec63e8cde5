"""A lock that is acquired in first-come, first-served order."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A mutex that threads acquire in the order of their requests; used with ``with``.

    With ``threading.Lock``, a thread that releases and reacquires the lock in a loop starves the
    others.
    """

    def __init__(self) -> None:
        self._state_lock = threading.Lock()
        self._held = False
        self._waiter_locks: deque[threading.Lock] = deque()  # each is released to wake its thread

    @property
    def waiting(self) -> int:
        """The number of threads that wait for the lock."""
        with self._state_lock:
            return len(self._waiter_locks)

    def __enter__(self) -> None:
        with self._state_lock:
            if not self._held:
                self._held = True
                return
            waiter_lock = threading.Lock()
            waiter_lock.acquire()
            self._waiter_locks.append(waiter_lock)
        try:
            waiter_lock.acquire()  # released by the holder, which hands the lock over
        except BaseException:  # an interrupt: pass the lock on if it was handed over
            with self._state_lock:
                if waiter_lock in self._waiter_locks:
                    self._waiter_locks.remove(waiter_lock)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._state_lock:
            if self._waiter_locks:
                self._waiter_locks.popleft().release()
            else:
                self._held = False
