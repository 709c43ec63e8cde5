"""FairLock: mutual exclusion, first come, first served."""

from __future__ import annotations

import threading

from llava_st_ros.fair_lock import FairLock


def wait_until_waiting(lock: FairLock, threads: int) -> None:
    """Block until this number of threads waits for the lock."""
    while lock.waiting < threads:
        threading.Event().wait(0.001)


def test_threads_acquire_in_order_and_before_the_last_holder():
    lock, served = FairLock(), []

    def take(name: int) -> None:
        with lock:
            served.append(name)

    threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
    with lock:
        for i, thread in enumerate(threads):
            thread.start()
            wait_until_waiting(lock, i + 1)
    with lock:  # the last one, although it requests the lock at once
        served.append(-1)
    for thread in threads:
        thread.join(30)
    assert served == [0, 1, 2, 3, 4, -1]


def test_one_thread_holds_the_lock_at_a_time():
    lock, inside, most = FairLock(), [], []

    def work() -> None:
        for _ in range(300):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 1200
    assert max(most) == 1


def test_an_error_releases_the_lock():
    lock = FairLock()
    try:
        with lock:
            raise ValueError
    except ValueError:
        pass
    with lock:
        assert lock.waiting == 0
