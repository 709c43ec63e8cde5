"""A bounded buffer of one camera's recent frames, and the selection of a window from it.

Frames are selected on an absolute time grid (cell = stamp // step), not relative to the newest
frame. A window that slides by a second then selects the same frames as before, so each frame is
encoded once. The buffer keeps only frames that a window can still select: the first of each cell
and the newest. Features replace an image once it is encoded. At 30 frames per second and with the
default window, this is a tenth of the images that a ring buffer would hold.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from llava_st_ros.config import StreamConfig
from llava_st_ros.counts import incremented
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import Frame, FrameFeatures, to_nanoseconds
from llava_st_ros.streaming.stream_clock import ClockJump, StreamClock

MAX_JUMPS = 100  # of the clock; the latest are remembered

Entry = Frame | FrameFeatures


@dataclass(frozen=True)
class StreamCounts:
    """Counts since the buffer was created. Frames skipped by the grid count as received only.

    Attributes:
        received: All frames.
        duplicates: Frames with a stamp that is already in the buffer.
        late: Frames that arrived after a newer one and were inserted in order.
        discarded: Frames that were too old for the window, or were evicted by the bounds.
        evicted: Those of them that the window still needed: the bounds are too small.
        resets: Stream resets: the camera's clock has jumped.
        implausible: Frames with a wrong stamp, which does not continue the stream: dropped, or held
            while it is open whether the clock has jumped.
    """

    received: int = 0
    duplicates: int = 0
    late: int = 0
    discarded: int = 0
    evicted: int = 0
    resets: int = 0
    implausible: int = 0


@dataclass(frozen=True)
class StreamReport:
    """What has happened on a camera's stream.

    Attributes:
        counts: The counts.
        jumps: The latest jumps of the camera's clock, at most MAX_JUMPS, oldest first.
        implausible: The newest stamp and the one of the last implausible frame after it, if any.
        covered: Nanoseconds from the oldest to the newest frame of the window.
        required: Nanoseconds that ``StreamConfig.history`` asks for.
        unfilled: Nanoseconds for which frames have arrived without covering that; a pause counts as
            ``required`` at most.
    """

    counts: StreamCounts = StreamCounts()
    jumps: tuple[ClockJump, ...] = ()
    implausible: ClockJump | None = None
    covered: int = 0
    required: int = 0
    unfilled: int = 0


@dataclass(frozen=True)
class StreamState:
    """A camera's stream at one moment.

    Attributes:
        generation: Incremented by each reset; stamps of two generations are not comparable.
        newest: Its newest stamp in nanoseconds.
        now: The time on its clock (ns): the newest stamp, or later if it has sent no frame since.
        has_history: Whether the frames cover the fraction ``StreamConfig.history`` of the window.
    """

    generation: int
    newest: int
    now: int
    has_history: bool

    @property
    def end(self) -> tuple[int, int]:
        """The generation and the newest stamp, which identify the newest window."""
        return self.generation, self.newest


def frame_interval(window_seconds: float, num_frames: int) -> int:
    """Return the interval of a window's frames in ns: the cells of its time grid.

    A window spans F - 1 intervals. Rounded down, so that frames with exactly this spacing are never
    in the same cell.
    """
    return max(1, to_nanoseconds(window_seconds) // max(1, num_frames - 1))


class FrameBuffer:
    """The frames of one camera over the last ``window_seconds``. Thread-safe.

    Frames with a known stamp are ignored and late frames are inserted in order. A StreamClock
    decides which stamps are plausible; a jump of the clock resets the stream. After a pause that is
    longer than the window, only the new frame is left.

    ``buffer_frames`` bounds the number of entries and ``buffer_bytes`` their size: images, and
    features once they are encoded. The oldest are evicted first; the newest is always kept. Images
    are kept by reference and must not be modified.

    Args:
        config: Window length and bounds.
        num_frames: Frames in a window.

    Raises:
        ConfigError: ``num_frames`` is less than 1.
    """

    def __init__(self, config: StreamConfig, num_frames: int) -> None:
        if num_frames < 1:
            raise ConfigError(f"num_frames is {num_frames}; expected at least 1")
        self._config = config
        self._num_frames = num_frames
        self._step = frame_interval(config.window_seconds, num_frames)
        # A filled window covers at least F - 2 steps.
        self._required = round(config.history * self._step * (num_frames - 2))
        self._unfilled = 0
        self._clock = StreamClock(config.reset_seconds)
        self._jumps: deque[ClockJump] = deque(maxlen=MAX_JUMPS)
        self._implausible: ClockJump | None = None
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._bytes = 0  # of all entries
        self._generation = 0
        self._counts = StreamCounts()

    @property
    def step(self) -> int:
        """Size of a grid cell in nanoseconds."""
        return self._step

    @property
    def generation(self) -> int:
        """Incremented by each reset; stamps of two generations are not comparable."""
        with self._lock:
            return self._generation

    @property
    def counts(self) -> StreamCounts:
        with self._lock:
            return self._counts

    @property
    def report(self) -> StreamReport:
        with self._lock:
            return StreamReport(
                self._counts,
                tuple(self._jumps),
                self._implausible,
                self._stamps[-1] - self._stamps[0] if self._stamps else 0,
                self._required,
                self._unfilled,
            )

    @property
    def newest(self) -> int | None:
        """The newest stamp in nanoseconds; None if there is no frame."""
        with self._lock:
            return self._stamps[-1] if self._stamps else None

    @property
    def state(self) -> StreamState | None:
        """The generation, newest stamp and history, atomically; None if there is no frame."""
        with self._lock:
            if not self._stamps:
                return None
            oldest, newest = self._stamps[0], self._stamps[-1]
            return StreamState(self._generation, newest, newest, newest - oldest >= self._required)

    @property
    def raw_bytes(self) -> int:
        """Size of the images that are not encoded yet."""
        with self._lock:
            return sum(e.nbytes for e in self._entries.values() if isinstance(e, Frame))

    @property
    def held_bytes(self) -> int:
        """Size of the images and of the features."""
        with self._lock:
            return self._bytes

    def __len__(self) -> int:
        with self._lock:
            return len(self._stamps)

    def push(self, frame: Frame) -> bool:
        """Add a frame; return whether the buffer's newest frame has changed."""
        with self._lock:
            before = self._generation, self._stamps[-1:]
            held = self._clock.held
            admission = self._clock.admit(frame)
            if held or self._clock.held:
                self._count(implausible=len(self._clock.held) + admission.dropped - len(held))
            if not any(frame is admitted for admitted in admission.frames):
                self._implausible = ClockJump(self._stamps[-1], frame.stamp)
            self._count(received=1)
            if admission.jump is not None:
                self._reset()
                self._count(resets=1)
                self._jumps.append(admission.jump)
            for admitted in admission.frames:
                self._add(admitted)
            self._enforce_bounds()
            has_advanced = before != (self._generation, self._stamps[-1:])
            if has_advanced:
                self._measure_history(*before)
            return has_advanced

    def sample(self, now: int | None = None) -> tuple[Entry, ...]:
        """Return the entries of the window that ends with the newest frame.

        Entries are in time order. With fewer frames than slots (a short stream, a slow camera, a
        gap) frames are repeated, so that the slots remain evenly spaced in time.

        Args:
            now: Ignore frames stamped later than this (ns).

        Returns:
            ``num_frames`` entries, or none if there is no frame.
        """
        return self.snapshot(now)[1]

    def snapshot(self, now: int | None = None) -> tuple[int, tuple[Entry, ...]]:
        """Return the generation and the entries of ``sample``, atomically."""
        with self._lock:
            stamps = (
                self._stamps if now is None else self._stamps[: bisect_right(self._stamps, now)]
            )
            selected = select_stamps(stamps, self._step, self._num_frames)
            return self._generation, tuple(self._entries[stamp] for stamp in selected)

    def latest(self, now: int | None = None) -> Entry | None:
        """Return the newest entry, or the newest one stamped up to ``now`` (ns)."""
        with self._lock:
            end = len(self._stamps) if now is None else bisect_right(self._stamps, now)
            return self._entries[self._stamps[end - 1]] if end else None

    def replace_image(self, frame: Frame, features: FrameFeatures) -> None:
        """Replace a frame by its features.

        Does nothing if the frame is no longer in the buffer, even if another frame has its stamp.
        """
        with self._lock:
            if self._entries.get(frame.stamp) is frame:
                self._entries[frame.stamp] = features
                self._bytes += features.nbytes - frame.nbytes
                self._enforce_bounds()  # features may be larger than the image

    def clear(self) -> None:
        """Remove all frames and start a new generation; the counts are kept."""
        with self._lock:
            self._reset()
            self._clock.clear()

    def _add(self, frame: Frame) -> None:
        newest = self._stamps[-1] if self._stamps else None
        if frame.stamp in self._entries:
            self._count(duplicates=1)
        elif newest is None or frame.stamp > newest:
            self._insert(frame)
            if newest is not None:
                self._thin(newest)
            self._drop_outside_window()
        else:
            self._push_late(frame)

    def _measure_history(self, generation: int, newest: list[int]) -> None:
        """Update ``_unfilled`` after a new newest frame, given the previous state."""
        is_new = generation != self._generation or not newest
        if is_new or self._stamps[-1] - self._stamps[0] >= self._required:
            self._unfilled = 0
        else:
            self._unfilled += min(self._required, self._stamps[-1] - newest[0])

    def _window_start(self, newest: int) -> int:
        """Return the start of the oldest grid cell in the window."""
        return _window_start(newest, self._step, self._num_frames)

    def _push_late(self, frame: Frame) -> None:
        if frame.stamp < self._window_start(self._stamps[-1]):
            self._count(discarded=1)
            return
        self._count(late=1)
        cell = frame.stamp // self._step
        index = bisect_left(self._stamps, cell * self._step)
        first = self._stamps[index]  # exists: at the latest the newest
        if first // self._step == cell:
            # Keep encoded frames: that saves more than a few milliseconds of even spacing.
            if first < frame.stamp or isinstance(self._entries[first], FrameFeatures):
                return
            if index < len(self._stamps) - 1:
                self._remove(first)
        self._insert(frame)

    def _thin(self, stamp: int) -> None:
        """Remove the previously newest frame unless it is the first of its cell."""
        index = bisect_left(self._stamps, stamp)
        if index > 0 and self._stamps[index - 1] // self._step == stamp // self._step:
            self._remove(stamp)

    def _drop_outside_window(self) -> None:
        start = self._window_start(self._stamps[-1])
        for stamp in self._stamps[: bisect_left(self._stamps, start)]:
            self._remove(stamp)

    def _enforce_bounds(self) -> None:
        while len(self._stamps) > self._config.buffer_frames and len(self._stamps) > 1:
            self._discard(self._stamps[0])
        held = sum(frame.nbytes for frame in self._clock.held)
        while self._bytes + held > self._config.buffer_bytes and len(self._stamps) > 1:
            self._discard(self._stamps[0])

    def _discard(self, stamp: int) -> None:
        self._count(discarded=1, evicted=1)
        self._remove(stamp)

    def _insert(self, frame: Frame) -> None:
        insort(self._stamps, frame.stamp)
        self._entries[frame.stamp] = frame
        self._bytes += frame.nbytes

    def _remove(self, stamp: int) -> None:
        del self._stamps[bisect_left(self._stamps, stamp)]
        self._bytes -= self._entries.pop(stamp).nbytes

    def _reset(self) -> None:
        self._stamps.clear()
        self._entries.clear()
        self._bytes = 0
        self._generation += 1

    def _count(self, **increments: int) -> None:
        self._counts = incremented(self._counts, **increments)


def select_stamps(stamps: Sequence[int], step: int, num_frames: int) -> list[int]:
    """Select the frames of the window that ends with the newest frame.

    Args:
        stamps: The stamps of a camera's frames in ascending order, in nanoseconds.
        step: Size of a grid cell in nanoseconds.
        num_frames: Number of slots.

    Returns:
        The stamp of each slot, as ``FrameBuffer.sample`` describes; empty if there is no frame.
    """
    if not stamps:
        return []
    newest = stamps[-1]
    inside = stamps[bisect_left(stamps, _window_start(newest, step, num_frames)) :]
    selected = [
        stamp for i, stamp in enumerate(inside) if i == 0 or stamp // step != inside[i - 1] // step
    ]
    # The newest frame replaces the first frame of its cell.
    if selected[-1] != newest:
        if len(selected) > 1 or num_frames == 1:
            selected[-1] = newest
        else:
            selected.append(newest)
    if len(selected) == num_frames:
        return selected
    first, steps = selected[0], max(1, num_frames - 1)
    return [
        min(selected, key=lambda stamp: abs((stamp - first) * steps - i * (newest - first)))
        for i in range(num_frames)
    ]


def _window_start(newest: int, step: int, num_frames: int) -> int:
    """Return the start of the oldest grid cell in the window."""
    return (newest // step - num_frames + 1) * step
