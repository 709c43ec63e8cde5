"""Tracks between two answers of the model: each box is carried to every new frame.

An answer is about frames in the past. Small gray pictures of the frames since then are kept, and on
its arrival the newest box of each track is carried through them before it is published, so that a
box never jumps back in time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from llava_st_ros.counts import incremented
from llava_st_ros.records import NANOSECONDS, Box, BoxTube, Frame, Track, TrackState, to_nanoseconds
from llava_st_ros.streaming.stream_clock import StreamClock
from llava_st_ros.tracking.events import MAX_TUBE_BOXES
from llava_st_ros.tracking.optical_flow import CarriedBox, carry, small_gray

HISTORY_SECONDS = 12.0  # of pictures
HISTORY_BYTES = 32 * 2**20  # of pictures, per camera
MAX_SECONDS = 10.0  # that a box is carried without an answer
RETRY_SECONDS = 0.5  # after a failure, e.g. while something passes in front
HALF_LIFE = 5.0  # seconds in which the confidence of a carried box halves
ANCHOR_SECONDS = 0.2  # largest difference between a box and the picture on which it starts
CATCH_UP_ROUNDS = 4  # in which pictures that arrive meanwhile are made up for
REPLAY_PICTURES = 90  # most of the first round; of more, evenly spaced ones
REPLAY_STEPS = 1_000  # most of all tracks in the first round: about a second


@dataclass(frozen=True)
class PropagationCounts:
    """Counts of one camera since the propagation began.

    Attributes:
        frames: Frames to which tracks were carried; without tracks they are only kept.
        late: Frames that were not newer than the one before, or whose stamps are implausible.
        carried: Boxes that were carried to a frame.
        lost: Tracks whose carrying failed for good.
        without_picture: Boxes of the model that could not be carried, as the frame that they are
            about is not kept any more, or never was.
        evicted: Pictures that were dropped for their size before they were HISTORY_SECONDS old.
    """

    frames: int = 0
    late: int = 0
    carried: int = 0
    lost: int = 0
    without_picture: int = 0
    evicted: int = 0


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame as optical flow sees it: gray uint8 [h, w] at a stamp (ns)."""

    stamp: int
    pixels: np.ndarray


class PictureHistory:
    """The pictures of the last seconds of a stream, oldest first. Not thread-safe."""

    def __init__(self) -> None:
        self._pictures: deque[Picture] = deque()
        self._bytes = 0
        self.evicted = 0

    @property
    def newest(self) -> Picture | None:
        return self._pictures[-1] if self._pictures else None

    @property
    def held_bytes(self) -> int:
        """Size of the pictures."""
        return self._bytes

    def add(self, picture: Picture) -> None:
        """Add the newest picture; pictures of another size than its own are dropped."""
        if self._pictures and self._pictures[-1].pixels.shape != picture.pixels.shape:
            self.clear()
        self._pictures.append(picture)
        self._bytes += picture.pixels.nbytes
        oldest = picture.stamp - to_nanoseconds(HISTORY_SECONDS)
        while self._pictures[0].stamp < oldest:
            self._drop()
        while self._bytes > HISTORY_BYTES and len(self._pictures) > 1:
            self._drop()
            self.evicted += 1

    def nearest(self, stamp: int) -> Picture | None:
        """Return the picture nearest to a stamp (ns), None if it is ANCHOR_SECONDS away."""
        found = min(self._pictures, key=lambda p: abs(p.stamp - stamp), default=None)
        if found is None or abs(found.stamp - stamp) > to_nanoseconds(ANCHOR_SECONDS):
            return None
        return found

    def since(self, stamp: int) -> list[Picture]:
        """Return the pictures that are newer than a stamp (ns)."""
        found: list[Picture] = []
        for picture in reversed(self._pictures):
            if picture.stamp <= stamp:
                break
            found.append(picture)
        return found[::-1]

    def clear(self) -> None:
        self._pictures.clear()
        self._bytes = 0

    def _drop(self) -> None:
        self._bytes -= self._pictures.popleft().pixels.nbytes


class _Position(NamedTuple):
    """How far a box was carried.

    Attributes:
        picture: The last one in which it was found.
        box: The box there.
        reached: Stamp (ns) of the last picture in which it was looked for.
    """

    picture: Picture
    box: CarriedBox
    reached: int

    @property
    def has_failed(self) -> bool:
        return self.picture.stamp != self.reached


@dataclass(eq=False)
class _Carrier:
    """The box of one track on its way.

    Attributes:
        track: As the model found it; the box of the model is the last of its tube.
        position: Replaced as one, since other threads read it meanwhile.
        is_stopped: It is not looked for any more.
    """

    track: Track
    position: _Position
    is_stopped: bool = False

    @property
    def reached(self) -> int:
        return self.position.reached

    def is_from(self, track: Track) -> bool:
        """Whether it started at the newest box of a track."""
        return (self.track.stamp, self.track.box) == (track.stamp, track.box)


class CameraPropagation:
    """The tracks of one camera between answers. Thread-safe.

    ``add`` carries the tracks to a frame. ``set_tracks`` and ``catch_up`` take over what the model
    has found. The other methods and properties wait for neither. A track is PROPAGATED while its
    box is found in the newest frame, and LOST otherwise, with the last box that was found. It is
    looked for RETRY_SECONDS after a failure, and MAX_SECONDS after the box of the model at most.
    What the model says is LOST stays LOST, and what it does not list is gone.

    Frames whose stamps do not continue the stream are treated as by FrameBuffer; a jump of the
    clock forgets everything.

    Args:
        reset_seconds: As for StreamClock.
    """

    def __init__(self, reset_seconds: float) -> None:
        self._lock = threading.Lock()  # not held while boxes are carried
        self._add_lock = threading.Lock()  # held from a picture until its boxes are carried to it
        self._catch_up_lock = threading.Lock()  # of the thread that carries new boxes
        self._clock = StreamClock(reset_seconds)
        self._history = PictureHistory()
        self._tracks: tuple[Track, ...] = ()  # as the model found them
        self._carriers: dict[int, _Carrier] = {}  # by track id
        self._fresh: list[_Carrier] = []  # of the newest answers, not caught up yet
        self._without_picture: dict[int, tuple[int, Box]] = {}  # counted boxes, by track id
        self._size: tuple[int, int] | None = None
        self._counts = PropagationCounts()

    @property
    def counts(self) -> PropagationCounts:
        with self._lock:
            return replace(self._counts, evicted=self._history.evicted)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The tracks in the newest frame, with their complete tubes."""
        with self._lock:
            return self._published()

    @property
    def has_tracks(self) -> bool:
        """Whether any track is being carried."""
        with self._lock:
            return any(not carrier.is_stopped for carrier in self._carriers.values())

    def add(self, frame: Frame) -> tuple[Track, ...] | None:
        """Carry the tracks to a frame.

        Returns:
            The tracks; the tube of a carried one has the box of the model and the current box only.
            None if the frame is not the newest, or its stamp is implausible.
        """
        pixels = small_gray(frame.image)
        with self._add_lock:
            with self._lock:
                picture = self._admit(frame, pixels)
                if picture is None:
                    self._count(late=1)
                    return None
                carriers = list(self._carriers.values())
            found, lost = _step(carriers, picture)
            with self._lock:
                self._count(frames=bool(carriers), carried=found, lost=lost)
                return self._published(is_short=True)

    def _admit(self, frame: Frame, pixels: np.ndarray) -> Picture | None:
        """Keep a frame's picture; None if the frame is not the newest, or is implausible."""
        admission = self._clock.admit(frame)
        if admission.jump is not None:
            self._forget()
        newest = self._history.newest
        is_newest = any(frame is admitted for admitted in admission.frames)
        if not is_newest or (newest is not None and frame.stamp <= newest.stamp):
            return None
        if self._size not in (None, (frame.width, frame.height)):
            self._forget()
        self._size = frame.width, frame.height
        picture = Picture(frame.stamp, pixels)
        self._history.add(picture)
        return picture

    def set_tracks(self, tracks: Sequence[Track]) -> None:
        """Set the camera's active tracks, as the model found them. Quick; ``catch_up`` follows."""
        with self._lock:
            self._tracks = tuple(tracks)
            known = {track.track_id for track in tracks}
            self._carriers = {i: c for i, c in self._carriers.items() if i in known}
            self._without_picture = {
                i: counted for i, counted in self._without_picture.items() if i in known
            }
            pending = {carrier.track.track_id: carrier for carrier in self._fresh}
            self._fresh = []
            for track in tracks:
                carrier = self._carriers.get(track.track_id)
                started = pending.get(track.track_id)
                if track.state is TrackState.LOST:
                    if carrier is not None:
                        carrier.is_stopped = True
                elif started is not None and started.is_from(track):
                    self._fresh.append(started)
                elif carrier is None or not carrier.is_from(track):
                    self._start(track)

    def catch_up(self) -> tuple[Track, ...]:
        """Carry new boxes of the model to the newest frame; return ``tracks``.

        Other threads may add frames meanwhile. While one thread does this, another one gets the
        tracks as they are.
        """
        if self._catch_up_lock.acquire(blocking=False):
            try:
                self._carry_fresh()
            finally:
                self._catch_up_lock.release()
        return self.tracks

    def _carry_fresh(self) -> None:
        with self._lock:
            fresh = list(self._fresh)
        for number in range(CATCH_UP_ROUNDS):
            with self._lock:
                fresh = self._wanted(fresh)
                pictures = self._pictures_for(fresh)
            if len(pictures) <= 1:
                break
            # Half as many in each further round, since a replay that is slower than the camera
            # would not catch up.
            most = min(REPLAY_PICTURES, REPLAY_STEPS // len(fresh)) >> number
            for picture in _thinned(pictures, max(1, most)):
                _step([c for c in fresh if c.reached < picture.stamp], picture)
        with self._add_lock:  # no further picture until these boxes are in the newest one
            with self._lock:
                fresh = self._wanted(fresh)
                pictures = self._pictures_for(fresh)[-1:]
            for picture in pictures:
                _step([c for c in fresh if c.reached < picture.stamp], picture)
            with self._lock:
                fresh = self._wanted(fresh)
                self._count(lost=sum(carrier.is_stopped for carrier in fresh))
                self._carriers |= {carrier.track.track_id: carrier for carrier in fresh}
                self._fresh = [carrier for carrier in self._fresh if carrier not in fresh]

    def _wanted(self, fresh: Sequence[_Carrier]) -> list[_Carrier]:
        """Return those that were not dropped meanwhile, with their query or their stream."""
        return [carrier for carrier in fresh if carrier in self._fresh]

    def drop(self, query_id: str) -> None:
        """Forget the tracks of a query: it was removed."""
        with self._lock:
            self._tracks = tuple(t for t in self._tracks if t.query_id != query_id)
            self._fresh = [c for c in self._fresh if c.track.query_id != query_id]
            self._carriers = {
                i: c for i, c in self._carriers.items() if c.track.query_id != query_id
            }

    def _forget(self) -> None:
        self._history.clear()
        self._tracks, self._fresh, self._size = (), [], None
        self._carriers.clear()
        self._without_picture.clear()

    def _start(self, track: Track) -> None:
        picture = self._history.nearest(track.stamp)
        if picture is None:
            # It is set again with each tick until the next answer.
            if self._without_picture.get(track.track_id) != (track.stamp, track.box):
                self._without_picture[track.track_id] = track.stamp, track.box
                self._count(without_picture=1)
            return
        carried = CarriedBox.start(track.box, picture.pixels.shape)
        self._fresh.append(_Carrier(track, _Position(picture, carried, picture.stamp)))

    def _pictures_for(self, carriers: Sequence[_Carrier]) -> list[Picture]:
        active = (carrier.reached for carrier in carriers if not carrier.is_stopped)
        reached = min(active, default=None)
        return [] if reached is None else self._history.since(reached)

    def _published(self, is_short: bool = False) -> tuple[Track, ...]:
        return tuple(
            track if carrier is None else _current(track, carrier, is_short)
            for track in self._tracks
            for carrier in (self._carriers.get(track.track_id),)
        )

    def _count(self, **increments: int) -> None:
        self._counts = incremented(self._counts, **increments)


def _thinned(pictures: list[Picture], most: int) -> list[Picture]:
    """Return at most so many of some pictures, evenly spaced, the last one included."""
    step = -(-len(pictures) // most)
    return pictures[::-1][::step][::-1]


def _step(carriers: Sequence[_Carrier], picture: Picture) -> tuple[int, int]:
    """Look for boxes in a picture; return how many were found, and how many are lost for good."""
    groups: dict[Picture, list[_Carrier]] = {}
    for carrier in carriers:
        if not carrier.is_stopped:
            groups.setdefault(carrier.position.picture, []).append(carrier)
    found = lost = 0
    for before, group in groups.items():
        moved = carry(before.pixels, picture.pixels, [carrier.position.box for carrier in group])
        for carrier, box in zip(group, moved):
            if box is not None:
                carrier.position = _Position(picture, box, picture.stamp)
                found += 1
            else:
                carrier.position = carrier.position._replace(reached=picture.stamp)
            is_old = picture.stamp - carrier.track.stamp > to_nanoseconds(MAX_SECONDS)
            failed_for = picture.stamp - carrier.position.picture.stamp
            if is_old or failed_for > to_nanoseconds(RETRY_SECONDS):
                carrier.is_stopped = True
                lost += 1
    return found, lost


def _current(track: Track, carrier: _Carrier, is_short: bool) -> Track:
    """Return a track with its carried box, if that is newer than the one of the model."""
    position = carrier.position
    picture, carried = position.picture, position.box
    stamp = picture.stamp
    is_lost = track.state is TrackState.LOST or carrier.is_stopped or position.has_failed
    if stamp <= max(track.stamp, carrier.track.stamp):  # the picture may be a little older
        return replace(track, state=TrackState.LOST) if is_lost else track
    kept = track.tube
    start = len(kept) - (1 if is_short else min(len(kept), MAX_TUBE_BOXES - 1))
    age = (stamp - carrier.track.stamp) / NANOSECONDS
    return replace(
        track,
        tube=BoxTube(
            (*kept.stamps[start:], stamp),
            (*kept.boxes[start:], carried.box(picture.pixels.shape)),
        ),
        state=TrackState.LOST if is_lost else TrackState.PROPAGATED,
        confidence=track.confidence * carried.support * 0.5 ** (age / HALF_LIFE),
        propagated_from=carrier.track.stamp,
    )
