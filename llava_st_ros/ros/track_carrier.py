"""The thread that carries tracks to new images while the model is busy."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.counts import incremented
from llava_st_ros.errors import FrameError, one_line
from llava_st_ros.grounder import Grounder
from llava_st_ros.records import NANOSECONDS, Frame, Track
from llava_st_ros.ros.diagnostics import DurationMeter, make_status
from llava_st_ros.ros.publishers import ResultPublishers
from llava_st_ros.streaming.frame_gate import TrackRates

# Decodes an image when it is needed. Raises FrameError; None if the image does not fit the stream.
ReadFrame = Callable[[], Frame | None]


@dataclass(frozen=True)
class CarrierCounts:
    """Numbers of images since the node was activated.

    Attributes:
        carried: To which the tracks of their camera were carried, or that were kept for later.
        replaced: That were not used, as a newer one arrived before their turn.
        unreadable: That could not be decoded.
    """

    carried: int = 0
    replaced: int = 0
    unreadable: int = 0


class TrackCarrier:
    """Carries the tracks of all cameras to their newest images, in one thread.

    Images do not queue: of each camera the newest one waits. The thread runs from construction to
    ``stop``, and waits neither for the model nor, more than for the publication of a tick's tracks
    and events, for the thread of the model.

    Args:
        grounder: Carries the tracks.
        publishers: Publish them.
        max_rate: The parameter ``track_rate``.
        on_error: Called in the thread with an exception.
    """

    def __init__(
        self,
        grounder: Grounder,
        publishers: ResultPublishers,
        max_rate: float,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._grounder, self._publishers, self._on_error = grounder, publishers, on_error
        self._changed = threading.Condition()  # guards everything below
        self._rates = TrackRates(max_rate)
        self._waiting: dict[str, ReadFrame] = {}  # by camera, longest waiting first
        self._counts: dict[str, CarrierCounts] = {}
        # From an image's arrival to its tracks, by camera.
        self._delays: defaultdict[str, DurationMeter] = defaultdict(DurationMeter)
        self._reported: dict[str, int] = {}  # images carried to at the last report
        self._reported_at = time.monotonic()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="llava-st-tracks", daemon=True)
        self._thread.start()

    @property
    def max_rate(self) -> float:
        """Images per second, by stamp and camera, to which tracks are carried at most; 0: none."""
        return self._rates.max_rate

    @max_rate.setter
    def max_rate(self, rate: float) -> None:
        with self._changed:
            self._rates.max_rate = rate
            if not rate:
                self._waiting.clear()
        if not rate:
            self._publishers.forget_carried()  # an image that is being carried is published before
            self._grounder.stop_propagation()

    def counts(self, camera: str) -> CarrierCounts:
        """Return the counts of a camera."""
        with self._changed:
            return self._counts.get(camera, CarrierCounts())

    def add_frame(self, frame: Frame) -> None:
        """Add an image that the model may see, too: one that is decoded anyway."""
        if self._rates.max_rate and self._grounder.queries and self._is_needed(frame.camera):
            self._add(frame.camera, frame.stamp, lambda: frame)

    def add_image(self, camera: str, stamp: int, read: ReadFrame) -> None:
        """Add another image; it is decoded in the thread, if there is a track to carry.

        Args:
            camera: The camera.
            stamp: The image's stamp (ns).
            read: Decodes it.
        """
        is_carried = self._rates.max_rate and self._grounder.is_propagating(camera)
        if is_carried and self._publishers.has_track_subscriber(camera):
            self._add(camera, stamp, read)

    def stop(self, timeout: float) -> bool:
        """End the thread; return whether it has ended within a timeout in seconds."""
        with self._changed:
            self._is_stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def statuses(self, node: str) -> Iterator[DiagnosticStatus]:
        """Yield the state of each camera whose tracks are carried, for /diagnostics.

        Args:
            node: Fully qualified name of the node.
        """
        now = time.monotonic()
        seconds, self._reported_at = max(now - self._reported_at, 1e-3), now
        with self._changed:
            counts = dict(self._counts)
            delays = {camera: self._delays[camera].drain() for camera in counts}
        for camera, count in counts.items():
            rate = (count.carried - self._reported.get(camera, 0)) / seconds
            self._reported[camera] = count.carried
            found = self._grounder.propagation_counts(camera)
            yield make_status(
                f"{node}: tracks {camera}",
                DiagnosticStatus.OK,
                f"{rate:.1f} Hz",
                {
                    "rate (Hz)": f"{rate:.2f}",
                    "delay from callback to publication": delays[camera],
                    "images": count.carried,
                    "images skipped, busy": count.replaced,
                    "images skipped, late or implausible": found.late,
                    "images skipped, unreadable": count.unreadable,
                    "boxes carried": found.carried,
                    "tracks lost": found.lost,
                    "boxes of answers without an image": found.without_picture,
                    "images forgotten for their size": found.evicted,
                },
            )

    def _is_needed(self, camera: str) -> bool:
        if self._publishers.has_track_subscriber(camera):
            return True
        if self._grounder.is_propagating(camera):
            self._grounder.stop_propagation(camera)  # what is not followed is not PROPAGATED
        return False

    def _add(self, camera: str, stamp: int, read: ReadFrame) -> None:
        with self._changed:
            if self._is_stopped or not self._rates.is_due(camera, stamp):
                return
            if camera in self._waiting:
                self._count(camera, replaced=1)
            self._waiting[camera] = read
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if self._is_stopped:
                    return
                camera = next(iter(self._waiting))
                read = self._waiting.pop(camera)
            try:
                self._carry(camera, read)
            except BaseException as error:  # must not end the thread
                self._report(error)

    def _report(self, error: BaseException) -> None:
        try:
            self._on_error(error)
        except BaseException as second:  # e.g. the logger raises
            line = f"tracks could not be carried: {one_line(error)}; reporting it failed: "
            print(line + one_line(second), file=sys.stderr)

    def _carry(self, camera: str, read: ReadFrame) -> None:
        try:
            frame = read()
        except FrameError:
            with self._changed:
                self._count(camera, unreadable=1)
            return
        if frame is None:
            return
        self._publishers.publish_carried(frame, self._propagate)
        with self._changed:
            self._count(camera, carried=1)
            if frame.arrival is not None:
                seconds = (time.monotonic_ns() - frame.arrival) / NANOSECONDS
                self._delays[camera].add(seconds)

    def _propagate(self, frame: Frame) -> tuple[Track, ...] | None:
        if self._is_stopped or not self._rates.max_rate:
            return None
        return self._grounder.propagate(frame)

    def _count(self, camera: str, **increments: int) -> None:
        counts = self._counts.get(camera, CarrierCounts())
        self._counts[camera] = incremented(counts, **increments)
