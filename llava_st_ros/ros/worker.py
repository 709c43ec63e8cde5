"""The thread that runs the model. It uses the Grounder and does not depend on rclpy."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from enum import Enum, auto
from typing import NamedTuple

from llava_st_ros.errors import BackendError, one_line
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import EndReason, Frame, Grounding, Query, Tick, to_nanoseconds
from llava_st_ros.ros.progress import Progress, Stall
from llava_st_ros.ros.thread_location import location_of
from llava_st_ros.streaming.new_frames import NewFrames
from llava_st_ros.streaming.silence import CAMERA_TIMEOUT, SilenceMonitor
from llava_st_ros.text.tokenizer import Tokenizer

# The result of a tick, each camera's newest frame when it started, and its duration in s; or what
# is true now, each camera's newest frame, and 0. One call at a time.
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


class WorkerHealth(NamedTuple):
    """What is wrong with a worker.

    Attributes:
        stall: The running inference, if it makes no progress; else None.
        restarts: How often the thread ended and was replaced.
        last_end: Why it ended last; empty if it never did.
        unreported: Number of failures for which ``on_error`` raised.
    """

    stall: Stall | None = None
    restarts: int = 0
    last_end: str = ""
    unreported: int = 0


class _OneShot(NamedTuple):
    answer: Callable[[], Grounding]
    future: Future[Grounding]

    def settle(
        self, *, result: Grounding | None = None, error: BaseException | None = None
    ) -> None:
        """Set the outcome, unless the query was abandoned. The worker's lock must be held."""
        if self.future.done():
            return
        if isinstance(error, Exception):
            self.future.set_exception(error)
        elif error is not None:  # e.g. SystemExit, which must not end the caller's thread
            self.future.set_exception(BackendError(f"the inference ended with {one_line(error)}"))
        elif result is not None:
            self.future.set_result(result)


class Worker:
    """Runs a Grounder in one thread: a tick when new frames arrived, one-shot queries in between.

    The thread runs from ``start`` to ``stop``. Frames that arrive during a tick are all visible to
    the next one; frames are not queued. No exception ends the thread: those of a tick are passed to
    ``on_error``, those of a one-shot query to its caller. Should it end all the same,
    ``supervise`` replaces it.

    What is published stays true while the thread is busy, hung or has no frames: ``refresh`` passes
    what has changed to ``on_tick``, from another thread, and ``end_streams`` what is true when
    nothing is evaluated any more.

    A Python thread cannot be killed. If an inference never returns, its thread is abandoned:
    callers get an error, and ``pause`` and ``stop`` return after their timeout.

    Args:
        grounder: The Grounder; its ``tick`` is called by this thread only.
        tokenizer: The model's tokenizer.
        on_tick: Called with results: in the thread after each tick, and by ``refresh`` and
            ``end_streams``.
        on_error: Called in the thread with an exception that a tick raised.
        watchdog_seconds: An inference without progress for longer than this counts as stalled.
        progress: Reports what the thread is doing; give it to an ObservedBackend too.
        silence: Decides which cameras are silent.

    Attributes:
        watchdog_seconds: As above; may be changed later.
        camera_timeout: Seconds without a usable image after which a camera is silent; may be
            changed.
    """

    def __init__(
        self,
        grounder: Grounder,
        tokenizer: Tokenizer,
        on_tick: OnTick,
        on_error: Callable[[BaseException], None],
        watchdog_seconds: float = 60.0,
        progress: Progress | None = None,
        silence: SilenceMonitor | None = None,
    ) -> None:
        self.grounder, self.tokenizer = grounder, tokenizer
        self._on_tick, self._on_error = on_tick, on_error
        self.watchdog_seconds = watchdog_seconds
        self._progress = progress or Progress()
        self.camera_timeout = CAMERA_TIMEOUT
        self._silence = silence or SilenceMonitor()
        # Held from collecting results until they are published, so that they are published in the
        # order in which they became true.
        self._results_lock = threading.Lock()
        # Guards everything below. Notified on every change that a thread may be waiting for, so
        # that no wait needs a timeout.
        self._changed = threading.Condition()
        self._mode, self._activity = Mode.PAUSED, Activity.IDLE
        self._epoch = 0  # incremented when RUNNING is left; earlier work is stale then
        self._enabled = True
        self._one_shots: deque[_OneShot] = deque()  # not started yet
        self._current: _OneShot | None = None  # being answered
        self._new_frames = NewFrames()
        self._is_started = False
        self._restarts, self._last_end, self._unreported = 0, "", 0
        self._thread = self._new_thread()

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

    @property
    def health(self) -> WorkerHealth:
        with self._changed:
            return WorkerHealth(self._stall(), self._restarts, self._last_end, self._unreported)

    def start(self) -> None:
        self._thread.start()
        self._is_started = True

    def supervise(self) -> WorkerHealth:
        """Replace the thread if it has ended; release all callers of a stalled inference.

        Call it about once per second, from a thread that does not wait for the model.
        """
        with self._changed:
            if self._is_started and self._mode is not Mode.STOPPED and not self._thread.is_alive():
                self._on_thread_end()
                thread = self._new_thread()
                thread.start()
                self._thread = thread
                self._restarts += 1
            stall = self._stall()
            if stall is not None:
                self._abandon(_stall_error(stall))
            return self.health

    def resume(self) -> None:
        """Start ticking, on a new stream. Does nothing after ``stop``."""
        with self._changed:
            if self._mode is Mode.STOPPED:
                return
            self.grounder.reset()
            self._new_frames.clear()
            self._silence.clear()
            self._mode = Mode.RUNNING

    def pause(self, timeout: float) -> bool:
        """Stop ticking and cancel all one-shot queries.

        Args:
            timeout: Seconds to wait for a running inference.

        Returns:
            Whether the thread is idle now. If not, the inference's result will be dropped, and
            callers that waited for it have got an error.
        """
        with self._changed:
            self._leave_running(Mode.PAUSED)
            is_idle = self._changed.wait_for(lambda: self._activity is Activity.IDLE, timeout)
            if not is_idle:
                self._abandon(_abandoned_error(timeout))
            return is_idle

    def refresh(self) -> Mapping[str, int]:
        """Pass to ``on_tick`` what has changed without an answer.

        Tracks that nothing confirms any more are LOST and end, as do those of silent cameras and of
        a hung model; events of these, of ended streams and of removed queries end. Call it about
        twice per second, from a thread that does not wait for the model. Nothing is passed while
        results are being published, and no camera is silent while the worker is paused.

        Returns:
            How long each silent camera has sent no usable image (ns).
        """
        silent: Mapping[str, int] = {}
        with self._changed:  # so that no silence of a stream is reported about the next one
            if self._mode is Mode.RUNNING:
                silent = self._silence.silent(to_nanoseconds(self.camera_timeout))
                for camera, duration in silent.items():
                    self.grounder.set_silence(camera, duration)
                if self._stall() is not None:
                    self.grounder.set_hung()
        if self._results_lock.acquire(blocking=False):
            try:
                with self._changed:
                    is_running, frames = self._mode is Mode.RUNNING, self._new_frames.newest
                if is_running:
                    self._publish_state(frames)
            finally:
                self._results_lock.release()
        return silent

    def end_streams(self, reason: EndReason, timeout: float) -> bool:
        """Pass to ``on_tick`` that there are no tracks, and that all events end.

        Call ``pause`` first.

        Args:
            reason: Why the events end.
            timeout: Seconds to wait for results that are being published.

        Returns:
            Whether that was passed: not if other results are still being published.
        """
        with self._changed:
            frames = self._new_frames.newest
        if not self._results_lock.acquire(timeout=timeout):
            return False
        try:
            self.grounder.stop(reason)
            self._publish_state(frames)
        finally:
            self._results_lock.release()
        return True

    def _publish_state(self, frames: Mapping[str, Frame]) -> None:
        try:
            self._on_tick(self.grounder.collect(), frames, 0.0)
        except Exception as error:
            self._report(error)

    def stop(self, timeout: float) -> bool:
        """End the thread.

        Args:
            timeout: Seconds to wait for a running inference.

        Returns:
            Whether the thread has ended. If not, it is abandoned, and callers that waited for it
            have got an error.
        """
        with self._changed:
            self._leave_running(Mode.STOPPED)
        if self._thread.is_alive():
            self._thread.join(timeout)
        has_ended = not self._thread.is_alive()
        if not has_ended:
            with self._changed:
                self._abandon(_abandoned_error(timeout))
        return has_ended

    def push(self, frame: Frame) -> None:
        """Add a frame, from any thread."""
        with self._changed:
            if self._mode is not Mode.RUNNING:
                return
            if self.grounder.push(frame):
                self._silence.arrived(frame.camera)
                self._new_frames.add(frame)
                self._changed.notify_all()

    def note_image(self, camera: str) -> None:
        """Record an image that is no frame because of the frame rate: its camera is not silent."""
        with self._changed:
            if self._mode is Mode.RUNNING:
                self._silence.arrived(camera)

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
            BackendError: Too many one-shot queries are pending, the node is not active, the
                query was cancelled before it was answered, or the inference does not end.
            LlavaStError: Raised by ``Grounder.ask``.
        """

        def is_cancelled() -> bool:
            self._progress.mark()
            return cancelled() or self._epoch != epoch

        def answer() -> Grounding:
            grounding = self.grounder.ask(
                query, camera=camera, on_token=on_token, cancelled=is_cancelled
            )
            if self._epoch != epoch:  # the answer is incomplete
                raise CancelledError
            return grounding

        one_shot = _OneShot(answer, Future())
        future = one_shot.future
        with self._changed:
            epoch = self._epoch
            if self._mode is not Mode.RUNNING:
                raise BackendError("the node is inactive", "activate it, then retry")
            stall = self._stall()
            if stall is not None:
                raise _stall_error(stall)
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

    def _stall(self) -> Stall | None:
        seconds = self._progress.idle_seconds
        if self._activity is Activity.IDLE or seconds <= self.watchdog_seconds:
            return None
        return Stall(seconds, self._progress.step_name, location_of(self._thread))

    def _abandon(self, error: BackendError) -> None:
        """Give the error to every caller of ``ask``. The lock must be held."""
        for one_shot in (*self._one_shots, *([self._current] if self._current else [])):
            one_shot.settle(error=error)
        self._one_shots.clear()
        self._changed.notify_all()

    def _leave_running(self, mode: Mode) -> None:
        if self._mode is not Mode.STOPPED:
            self._mode = mode
        self._epoch += 1
        for one_shot in self._one_shots:
            one_shot.future.cancel()
        self._one_shots.clear()
        self._changed.notify_all()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._main, name="llava-st-worker", daemon=True)

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:  # ``supervise`` starts another thread
            self._last_end = one_line(error)
        finally:
            with self._changed:
                self._on_thread_end()

    def _on_thread_end(self) -> None:
        """Release the caller whose query was being answered. The lock must be held."""
        if self._current is not None:
            error = BackendError(f"the worker thread ended: {self._last_end or 'unknown reason'}")
            self._current.settle(error=error)
        self._current, self._activity = None, Activity.IDLE
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._current, self._activity = None, Activity.IDLE
                self._changed.notify_all()
                self._changed.wait_for(self._has_work)
                if self._mode is Mode.STOPPED:
                    return
                self._progress.mark()
                one_shot = self._one_shots.popleft() if self._one_shots else None
                frames: dict[str, Frame] = {}
                if one_shot is None:
                    self._activity, frames = Activity.TICKING, self._new_frames.take()
                else:
                    self._current, self._activity = one_shot, Activity.ANSWERING
                epoch = self._epoch
            if one_shot is None:
                with self._progress.step("a tick"):
                    self._tick(frames, epoch)
            else:
                with self._progress.step("an answer"):
                    self._answer(one_shot)

    def _has_work(self) -> bool:
        is_tick_due = self._mode is Mode.RUNNING and self._enabled and bool(self._new_frames)
        return is_tick_due or self._mode is Mode.STOPPED or bool(self._one_shots)

    def _answer(self, one_shot: _OneShot) -> None:
        with self._changed:
            if one_shot.future.done():  # abandoned or cancelled meanwhile
                return
            one_shot.future.set_running_or_notify_cancel()
        try:
            grounding = one_shot.answer()
        except BaseException as error:  # raised again by ``ask``
            with self._changed:
                one_shot.settle(error=error)
        else:
            with self._changed:
                one_shot.settle(result=grounding)

    def _tick(self, frames: Mapping[str, Frame], epoch: int) -> None:
        def is_stale() -> bool:
            self._progress.mark()
            return self._epoch != epoch

        started = time.monotonic()
        try:
            evaluations = self.grounder.evaluate(cancelled=is_stale)
            with self._progress.step("publishing"), self._results_lock:
                if not is_stale():
                    tick = self.grounder.collect(evaluations)
                    self._on_tick(tick, frames, time.monotonic() - started)
        except BaseException as error:  # must not end the thread
            self._report(error)

    def _report(self, error: BaseException) -> None:
        try:
            self._on_error(error)
        except BaseException as second:  # e.g. the logger raises; it must not end the thread
            self._unreported += 1
            line = f"a tick failed: {one_line(error)}; reporting it failed: {one_line(second)}"
            print(line, file=sys.stderr)


def _stall_error(stall: Stall) -> BackendError:
    return BackendError(
        f"the inference is hung: {stall}",
        "retry when /diagnostics is OK again; if the model is that slow, raise watchdog_seconds",
    )


def _abandoned_error(timeout: float) -> BackendError:
    return BackendError(
        "the node was deactivated before the query was answered; the inference did not end within "
        f"{timeout:.1f} s"
    )
