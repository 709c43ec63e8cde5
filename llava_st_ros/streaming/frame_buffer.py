"""The recent past of one camera: a stamped, bounded store and the choice of a window's frames.

The choice is made on an absolute time grid (slot = stamp // step) rather than relative to the
newest frame, so that a window that slides by a second picks the frames that the last one picked:
each is encoded once. Only the frames that a window can still pick are kept: the first of each slot
and the newest of all. A raw image stays until it was encoded, then its features take its place; at
30 frames a second and the default window this holds a tenth of the images that a plain ring would.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava_st_ros.config import StreamConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import NANOSECONDS, Frame, FrameFeatures

Entry = Frame | FrameFeatures


@dataclass(frozen=True)
class StreamCounts:
    """What came since the buffer was made, in frames (``resets``: in jumps).

    ``late`` frames came after a newer one and were taken in order; ``discarded`` ones were too old
    for the window or pushed out by the bounds before they were encoded. Frames that the grid left
    out are none of these: that is how sampling works.
    """

    received: int = 0
    duplicates: int = 0
    late: int = 0
    discarded: int = 0
    resets: int = 0


class FrameBuffer:
    """One camera's frames over the last ``window_seconds``, safe to use from several threads.

    A stamp seen before is ignored; a frame slightly late is put in its place; a stamp more than
    ``reset_seconds`` before the newest begins a new stream (a bag restarted, simulated time set
    back), and so does whatever follows a single stamp far in the future. A jump far forward leaves
    nothing of the old window.

    ``buffer_frames`` bounds the entries and ``buffer_bytes`` the raw images among them; the oldest
    go first and the newest always stays. Images are kept by reference: do not write to them.
    """

    def __init__(self, config: StreamConfig, num_frames: int) -> None:
        if num_frames < 1:
            raise ConfigError(
                f"{num_frames} frames a window; expected at least 1", "raise num_frames"
            )
        self._config = config
        self._num_frames = num_frames
        # From the oldest of a window to the newest there are F - 1 steps: window_seconds, give or
        # take one step. Rounded down, so that frames at just this spacing never share a slot.
        window = round(config.window_seconds * NANOSECONDS)
        self._step = max(1, window // max(1, num_frames - 1))
        self._reset_after = round(config.reset_seconds * NANOSECONDS)
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._raw_bytes = 0
        self._generation = 0
        self._counts = StreamCounts()

    @property
    def step(self) -> int:
        """Nanoseconds between the slots of the grid."""
        return self._step

    @property
    def generation(self) -> int:
        """Rises with each new stream: stamps of two generations cannot be compared."""
        with self._lock:
            return self._generation

    @property
    def counts(self) -> StreamCounts:
        with self._lock:
            return self._counts

    @property
    def newest(self) -> int | None:
        """The newest stamp, nanoseconds; None before the first frame."""
        with self._lock:
            return self._stamps[-1] if self._stamps else None

    @property
    def has_history(self) -> bool:
        """Whether the frames held reach back as far as ``StreamConfig.history`` asks."""
        with self._lock:
            if not self._stamps:
                return False
            # A full window reaches back F - 2 whole steps and a part of one.
            wanted = self._config.history * self._step * (self._num_frames - 2)
            return self._stamps[-1] - self._stamps[0] >= wanted

    @property
    def raw_bytes(self) -> int:
        """Bytes of images not encoded yet."""
        with self._lock:
            return self._raw_bytes

    def __len__(self) -> int:
        with self._lock:
            return len(self._stamps)

    def push(self, frame: Frame) -> None:
        """Take one frame; stamps may come in any order, see the class."""
        with self._lock:
            self._count(received=1)
            newest = self._stamps[-1] if self._stamps else None
            if newest is not None and newest - frame.stamp > self._reset_after:
                self._begin_stream()
                self._count(resets=1)
                newest = None
            if frame.stamp in self._entries:
                self._count(duplicates=1)
            elif newest is None or frame.stamp > newest:
                self._insert(frame)
                if newest is not None:
                    self._thin(newest)
                self._drop_outside_window()
            else:
                self._push_late(frame)
            self._enforce_bounds()

    def sample(self, now: int | None = None) -> tuple[Entry, ...]:
        """``num_frames`` entries spread over the window that ends with the newest frame.

        ``now`` (ns) leaves out frames stamped later. Stamps never fall, the newest frame is last,
        and where there are fewer frames than places (a young stream, a slow camera, a gap) they
        are repeated so that the places stay even in time. Empty when there is no frame.
        """
        return self.snapshot(now)[1]

    def snapshot(self, now: int | None = None) -> tuple[int, tuple[Entry, ...]]:
        """The generation and what ``sample`` gives, taken at one moment."""
        with self._lock:
            stamps = (
                self._stamps if now is None else self._stamps[: bisect_right(self._stamps, now)]
            )
            picked = self._pick(stamps) if stamps else ()
            return self._generation, tuple(self._entries[stamp] for stamp in picked)

    def latest(self, now: int | None = None) -> Entry | None:
        """The newest entry, of those stamped up to ``now`` (ns) where given."""
        with self._lock:
            end = len(self._stamps) if now is None else bisect_right(self._stamps, now)
            return self._entries[self._stamps[end - 1]] if end else None

    def replace_image(self, frame: Frame, features: FrameFeatures) -> None:
        """Let features take the place of the very frame that they were computed from.

        Nothing happens where the frame has gone meanwhile, be it to a new stream's frame that has
        the same stamp.
        """
        with self._lock:
            if self._entries.get(frame.stamp) is frame:
                self._entries[frame.stamp] = features
                self._raw_bytes -= frame.image.nbytes

    def clear(self) -> None:
        """Forget every frame, as at the start of a new stream; the counts stay."""
        with self._lock:
            self._begin_stream()

    def _pick(self, stamps: Sequence[int]) -> list[int]:
        newest = stamps[-1]
        first_slot = newest // self._step - self._num_frames + 1
        inside = stamps[bisect_left(stamps, first_slot * self._step) :]
        picked = [
            stamp
            for i, stamp in enumerate(inside)
            if i == 0 or stamp // self._step != inside[i - 1] // self._step
        ]
        # The newest frame stands for its own slot, in place of the slot's first.
        if picked[-1] != newest:
            if len(picked) > 1 or self._num_frames == 1:
                picked[-1] = newest
            else:
                picked.append(newest)
        if len(picked) == self._num_frames:
            return picked
        first, places = picked[0], max(1, self._num_frames - 1)
        return [
            min(picked, key=lambda stamp: abs((stamp - first) * places - i * (newest - first)))
            for i in range(self._num_frames)
        ]

    def _push_late(self, frame: Frame) -> None:
        slot = frame.stamp // self._step
        oldest_slot = self._stamps[-1] // self._step - self._num_frames + 1
        if slot < oldest_slot:
            self._count(discarded=1)
            return
        self._count(late=1)
        first = bisect_left(self._stamps, slot * self._step)
        holder = self._stamps[first]  # there is one: the newest at the latest
        if holder // self._step == slot:
            # Features already paid for are worth more than a few milliseconds of evenness.
            if holder < frame.stamp or isinstance(self._entries[holder], FrameFeatures):
                return
            if first < len(self._stamps) - 1:
                self._remove(holder)
        self._insert(frame)

    def _thin(self, stamp: int) -> None:
        """Drop a frame that is no longer the newest, unless it is its slot's first."""
        place = bisect_left(self._stamps, stamp)
        if place > 0 and self._stamps[place - 1] // self._step == stamp // self._step:
            self._remove(stamp)

    def _drop_outside_window(self) -> None:
        first_slot = self._stamps[-1] // self._step - self._num_frames + 1
        for stamp in self._stamps[: bisect_left(self._stamps, first_slot * self._step)]:
            self._remove(stamp)

    def _enforce_bounds(self) -> None:
        while len(self._stamps) > self._config.buffer_frames and len(self._stamps) > 1:
            self._discard(self._stamps[0])
        if self._raw_bytes > self._config.buffer_bytes:
            raw = [s for s in self._stamps[:-1] if isinstance(self._entries[s], Frame)]
            for stamp in raw:
                if self._raw_bytes <= self._config.buffer_bytes:
                    break
                self._discard(stamp)

    def _discard(self, stamp: int) -> None:
        if isinstance(self._entries[stamp], Frame):
            self._count(discarded=1)
        self._remove(stamp)

    def _insert(self, frame: Frame) -> None:
        insort(self._stamps, frame.stamp)
        self._entries[frame.stamp] = frame
        self._raw_bytes += frame.image.nbytes

    def _remove(self, stamp: int) -> None:
        del self._stamps[bisect_left(self._stamps, stamp)]
        entry = self._entries.pop(stamp)
        if isinstance(entry, Frame):
            self._raw_bytes -= entry.image.nbytes

    def _begin_stream(self) -> None:
        self._stamps.clear()
        self._entries.clear()
        self._raw_bytes = 0
        self._generation += 1

    def _count(self, **more: int) -> None:
        counts = self._counts
        self._counts = replace(counts, **{k: getattr(counts, k) + n for k, n in more.items()})
