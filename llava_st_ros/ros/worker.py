"""The thread in which the model runs: never a subscription's. Knows the Grounder, not rclpy."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, wait

from llava_st_ros.errors import BackendError
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Query, Tick
from llava_st_ros.text.tokenizer import Tokenizer

# What a tick brought, the newest frame of each camera when it began, and seconds it took.
OnTick = Callable[[Tick, Mapping[str, Frame], float], None]
Ask = Callable[[], Grounding]

MAX_PENDING = 4  # questions waiting; each holds a thread of the executor


class Worker:
    """Runs a Grounder: a tick for new frames while it is running, questions at any time.

    The thread lives from ``start`` to ``stop``. Frames that come while a tick runs are taken
    together by the next one: the newest wins, none is queued for the model.
    """

    def __init__(
        self,
        grounder: Grounder,
        tokenizer: Tokenizer,
        on_tick: OnTick,
        on_error: Callable[[Exception], None],
        reset_seconds: float = 1.0,
    ) -> None:
        self.grounder, self.tokenizer = grounder, tokenizer
        self._on_tick, self._on_error = on_tick, on_error
        self._reset = round(reset_seconds * NANOSECONDS)
        self._changed = threading.Condition()
        self._asked: deque[tuple[Ask, Future[Grounding]]] = deque()
        self._newest: dict[str, Frame] = {}
        self._fresh = False
        self._running = self._stopping = self._busy = self._answering = False
        self._enabled = True
        self._thread = threading.Thread(target=self._run, name="llava-st-worker", daemon=True)

    @property
    def pending(self) -> int:
        """Questions that wait or are being answered; standing queries not counted."""
        with self._changed:
            return len(self._asked) + self._answering

    @property
    def enabled(self) -> bool:
        """Whether standing queries are asked."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        with self._changed:
            self._enabled = value
            self._changed.notify_all()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        """Begin to tick, on a new stream."""
        with self._changed:
            self.grounder.reset()
            self._newest.clear()
            self._fresh, self._running = False, True

    def pause(self, timeout: float) -> bool:
        """Stop ticking; True once nothing runs any more, False if that took over ``timeout`` s."""
        with self._changed:
            self._running = False
            for _, future in self._asked:
                future.cancel()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def stop(self, timeout: float) -> bool:
        """End the thread; False if a running inference did not end within ``timeout`` seconds."""
        with self._changed:
            self._running, self._stopping = False, True
            for _, future in self._asked:
                future.cancel()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def push(self, frame: Frame) -> None:
        """Take a frame, from any thread."""
        with self._changed:
            if not self._running:
                return
            last = self._newest.get(frame.camera)
            if last is not None and last.stamp - frame.stamp > self._reset:
                # The clock was set back: a camera that stopped before must not hold it.
                self._newest.clear()
                last = None
            self.grounder.push(frame)
            if last is None or frame.stamp >= last.stamp:
                self._newest[frame.camera] = frame
            self._fresh = True
            self._changed.notify_all()

    def ask(
        self,
        query: Query,
        *,
        camera: str | None,
        on_token: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Grounding:
        """Answer one question between two ticks; waits for it. Raises what ``Grounder.ask`` does.

        BackendError where too many questions wait already, where the node is not active, and where
        the question was cancelled before its turn.
        """
        future: Future[Grounding] = Future()

        def answer() -> Grounding:
            grounding = self.grounder.ask(
                query,
                camera=camera,
                on_token=on_token,
                cancelled=lambda: cancelled() or not self._running,
            )
            if not self._running:  # cut short: no answer
                raise CancelledError
            return grounding

        with self._changed:
            if not self._running:
                raise BackendError(
                    "an inactive node; expected an active one", "activate it and ask again"
                )
            if len(self._asked) + self._answering >= MAX_PENDING:
                raise BackendError(
                    f"{MAX_PENDING} questions waiting; expected fewer than {MAX_PENDING}",
                    "ask later",
                )
            self._asked.append((answer, future))
            self._changed.notify_all()
        while not future.done():
            wait([future], timeout=0.1)
            # One that is being answered cannot be withdrawn here: it looks for itself.
            if cancelled() and future.cancel():
                with self._changed:
                    self._asked = deque(item for item in self._asked if item[1] is not future)
        try:
            return future.result()
        except CancelledError:
            raise BackendError(
                "a question withdrawn or cut short; expected an answer", "ask again while active"
            ) from None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = self._answering = False
                self._changed.notify_all()
                self._changed.wait_for(self._has_work)
                if self._stopping:
                    return
                self._busy, self._answering = True, bool(self._asked)
                asked = self._asked.popleft() if self._asked else None
                frames = dict(self._newest)
                if asked is None:
                    self._fresh = False
            if asked is not None:
                self._answer(*asked)
            else:
                self._tick(frames)

    def _has_work(self) -> bool:
        due = self._running and self._enabled and self._fresh
        return due or self._stopping or bool(self._asked)

    def _answer(self, ask: Ask, future: Future[Grounding]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(ask())
        except Exception as error:  # to whoever asked
            future.set_exception(error)

    def _tick(self, frames: Mapping[str, Frame]) -> None:
        begun = time.monotonic()
        try:
            now = max(frame.stamp for frame in frames.values())
            tick = self.grounder.tick(now, cancelled=lambda: not self._running)
            if self._running:
                self._on_tick(tick, frames, time.monotonic() - begun)
        except Exception as error:  # whatever it is, it must not end the thread in silence
            self._on_error(error)
