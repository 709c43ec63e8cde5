"""The thread that runs the model. It uses the Grounder and does not depend on rclpy."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from enum import Enum, auto
from typing import NamedTuple

from llava_st_ros.errors import BackendError
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Grounding, Query, Tick
from llava_st_ros.text.tokenizer import Tokenizer

# The result of a tick, each camera's newest frame when the tick started, and its duration in s.
OnTick = Callable[[Tick, Mapping[str, Frame], float], None]

MAX_PENDING = 4  # one-shot queries; each blocks a thread of the executor


class Mode(Enum):
    """What the worker should do."""

    PAUSED = auto()  # drop frames and reject one-shot queries
    RUNNING = auto()
    STOPPED = auto()  # the thread ends; final


class Activity(Enum):
    """What the thread is doing."""

    IDLE = auto()
    TICKING = auto()
    ANSWERING = auto()  # a one-shot query


class _OneShot(NamedTuple):
    answer: Callable[[], Grounding]
    future: Future[Grounding]


class Worker:
    """Runs a Grounder in one thread: a tick when new frames arrived, one-shot queries in between.

    The thread runs from ``start`` to ``stop``. Frames that arrive during a tick are all visible to
    the next one; frames are not queued.

    Args:
        grounder: The Grounder; its ``tick`` is called by this thread only.
        tokenizer: The model's tokenizer.
        on_tick: Called in the thread after each tick.
        on_error: Called in the thread with an exception that a tick raised.
        reset_seconds: A stamp that jumps back further than this is a stream reset.
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
        self._reset_after = round(reset_seconds * NANOSECONDS)
        # Guards everything below. Notified on every change that a thread may be waiting for, so
        # that no wait needs a timeout.
        self._changed = threading.Condition()
        self._mode, self._activity = Mode.PAUSED, Activity.IDLE
        self._enabled = True
        self._one_shots: deque[_OneShot] = deque()  # not started yet
        self._newest: dict[str, Frame] = {}  # by camera
        self._has_new_frames = False
        self._thread = threading.Thread(target=self._run, name="llava-st-worker", daemon=True)

    @property
    def pending(self) -> int:
        """The number of one-shot queries that are waiting or being answered."""
        with self._changed:
            return self._pending()

    @property
    def enabled(self) -> bool:
        """Whether standing queries are evaluated."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        with self._changed:
            self._enabled = value
            self._changed.notify_all()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        """Start ticking, on a new stream. Does nothing after ``stop``."""
        with self._changed:
            if self._mode is Mode.STOPPED:
                return
            self.grounder.reset()
            self._newest.clear()
            self._has_new_frames = False
            self._mode = Mode.RUNNING

    def pause(self, timeout: float) -> bool:
        """Stop ticking and cancel all one-shot queries.

        Args:
            timeout: Seconds to wait for a running inference.

        Returns:
            Whether the thread is idle now.
        """
        with self._changed:
            self._leave_running(Mode.PAUSED)
            return self._changed.wait_for(lambda: self._activity is Activity.IDLE, timeout)

    def stop(self, timeout: float) -> bool:
        """End the thread.

        Args:
            timeout: Seconds to wait for a running inference.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._leave_running(Mode.STOPPED)
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def push(self, frame: Frame) -> None:
        """Add a frame, from any thread."""
        with self._changed:
            if self._mode is not Mode.RUNNING:
                return
            last = self._newest.get(frame.camera)
            if last is not None and last.stamp - frame.stamp > self._reset_after:
                # A stream reset: a camera that stopped before it must not hold the clock back.
                self._newest.clear()
                last = None
            self.grounder.push(frame)
            if last is None or frame.stamp >= last.stamp:
                self._newest[frame.camera] = frame
            self._has_new_frames = True
            self._changed.notify_all()

    def ask(
        self,
        query: Query,
        *,
        camera: str | None,
        on_token: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Grounding:
        """Answer a one-shot query between two ticks, and wait for it.

        Args:
            query: The query.
            camera: As for ``Grounder.ask``.
            on_token: Called in the worker's thread with each token.
            cancelled: Whether to give up. Evaluated after each token; while the query waits to be
                started, when the worker's state changes and on ``check_cancelled``.

        Raises:
            BackendError: Too many one-shot queries are pending, the node is not active, or the
                query was cancelled before it was answered.
            LlavaStError: Raised by ``Grounder.ask``.
        """

        def answer() -> Grounding:
            grounding = self.grounder.ask(
                query,
                camera=camera,
                on_token=on_token,
                cancelled=lambda: cancelled() or self._mode is not Mode.RUNNING,
            )
            if self._mode is not Mode.RUNNING:  # the answer is incomplete
                raise CancelledError
            return grounding

        one_shot = _OneShot(answer, Future())
        future = one_shot.future
        with self._changed:
            if self._mode is not Mode.RUNNING:
                raise BackendError("the node is inactive", "activate it, then retry")
            if self._pending() >= MAX_PENDING:
                raise BackendError(f"{MAX_PENDING} one-shot queries are pending", "retry later")
            self._one_shots.append(one_shot)
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: future.done() or cancelled())
            finally:  # also if ``cancelled`` raises
                if future.cancel():  # fails once the thread has started on it
                    self._one_shots = deque(o for o in self._one_shots if o is not one_shot)
            self._changed.wait_for(future.done)
        try:
            return future.result()
        except CancelledError:
            raise BackendError(
                "the query was cancelled, or the node was deactivated, before it was answered"
            ) from None

    def check_cancelled(self) -> None:
        """Make every waiting ``ask`` evaluate its ``cancelled`` again."""
        with self._changed:
            self._changed.notify_all()

    def _pending(self) -> int:
        return len(self._one_shots) + (self._activity is Activity.ANSWERING)

    def _leave_running(self, mode: Mode) -> None:
        if self._mode is not Mode.STOPPED:
            self._mode = mode
        for one_shot in self._one_shots:
            one_shot.future.cancel()
        self._one_shots.clear()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._activity = Activity.IDLE
                self._changed.notify_all()
                self._changed.wait_for(self._has_work)
                if self._mode is Mode.STOPPED:
                    return
                one_shot = self._one_shots.popleft() if self._one_shots else None
                if one_shot is None:
                    self._activity, self._has_new_frames = Activity.TICKING, False
                else:
                    self._activity = Activity.ANSWERING
                frames = dict(self._newest)
            if one_shot is None:
                self._tick(frames)
            else:
                self._answer(one_shot)

    def _has_work(self) -> bool:
        is_tick_due = self._mode is Mode.RUNNING and self._enabled and self._has_new_frames
        return is_tick_due or self._mode is Mode.STOPPED or bool(self._one_shots)

    @staticmethod
    def _answer(one_shot: _OneShot) -> None:
        try:
            if one_shot.future.set_running_or_notify_cancel():
                one_shot.future.set_result(one_shot.answer())
        except Exception as error:  # raised again by ``ask``
            one_shot.future.set_exception(error)

    def _tick(self, frames: Mapping[str, Frame]) -> None:
        started = time.monotonic()
        try:
            now = max(frame.stamp for frame in frames.values())
            tick = self.grounder.tick(now, cancelled=lambda: self._mode is not Mode.RUNNING)
            if self._mode is Mode.RUNNING:
                self._on_tick(tick, frames, time.monotonic() - started)
        except Exception as error:  # must not end the thread silently
            self._on_error(error)
