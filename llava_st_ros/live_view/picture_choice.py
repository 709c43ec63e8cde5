"""Chooses which images of a camera are shown, with the tracks of the same image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

HOLD_S = 0.3  # how long an image waits for the tracks in it
JITTER = 0.9  # of the shortest interval: tolerates a camera at exactly the maximum rate
MAX_WAITING = 32  # images
MAX_TRACKS = 64  # messages
LOST = "LOST"
Tracks = Mapping[str, Any]  # as result_values.tracks_values


@dataclass(frozen=True)
class Picture:
    """An image of a camera.

    Attributes:
        stamp: ns.
        jpeg: Returns it as a JPEG; raises FrameError.
    """

    stamp: int
    jpeg: Callable[[], bytes]


class Shown(NamedTuple):
    """What is shown next; None: as before.

    Attributes:
        picture: The image.
        tracks: What is drawn over it.
    """

    picture: Picture | None
    tracks: Tracks | None


class PictureChoice:
    """Pairs the images of one camera with its tracks by their stamps, at a limited rate.

    The newest image whose tracks are there is shown. Where tracks are carried to every image, they
    arrive a little later than it. An image to which no tracks arrive within HOLD_S, since the node
    does not carry tracks or not at this rate, is shown with the latest ones before it. Without
    tracks that move, no image waits. Not thread-safe.

    Args:
        max_rate: Images per second.
        clock: Returns the current time in seconds.
    """

    def __init__(self, max_rate: float, clock: Callable[[], float]) -> None:
        self._interval, self._clock = 1.0 / max_rate, clock
        self._due = 0.0
        self._waiting: deque[tuple[float, Picture]] = deque()
        self._tracks: deque[tuple[float, Tracks]] = deque(maxlen=MAX_TRACKS)
        self._shown_stamp: int | None = None
        self._shown_tracks: Tracks | None = None

    def add_picture(self, picture: Picture) -> None:
        last = self._waiting[-1][1].stamp if self._waiting else self._shown_stamp
        if last is not None and picture.stamp <= last:  # another stream, or no stamps at all
            self._waiting.clear()
            self._shown_stamp = None
            while self._tracks and self._tracks[-1][1]["stamp"] > picture.stamp:
                self._tracks.pop()
        self._waiting.append((self._clock(), picture))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()

    def add_tracks(self, tracks: Tracks) -> None:
        while self._tracks and self._tracks[-1][1]["stamp"] > tracks["stamp"]:
            self._tracks.pop()  # of an earlier stream
        if self._tracks and self._tracks[-1][1]["stamp"] == tracks["stamp"]:
            self._tracks.pop()
        self._tracks.append((self._clock(), tracks))

    def next(self) -> Shown | None:
        """Return what is to be shown now, or None if nothing changes. Call it regularly."""
        now = self._clock()
        if now < self._due:
            return None
        shown = self._next_picture(now) or self._next_tracks(now)
        if shown is not None:
            self._due = now + JITTER * self._interval
            if shown.tracks is not None:
                self._shown_tracks = shown.tracks
        return shown

    def _next_picture(self, now: float) -> Shown | None:
        picture = self._choose(now)
        if picture is None:
            return None
        while self._waiting and self._waiting[0][1].stamp <= picture.stamp:
            self._waiting.popleft()
        self._shown_stamp = picture.stamp
        before = [tracks for _, tracks in self._tracks if tracks["stamp"] <= picture.stamp]
        return Shown(picture, before[-1] if before else None)

    def _choose(self, now: float) -> Picture | None:
        if not self._waiting:
            return None
        if not self._is_moving():
            return self._waiting[-1][1]
        with_tracks = {tracks["stamp"] for _, tracks in self._tracks}
        for arrival, picture in reversed(self._waiting):
            if picture.stamp in with_tracks or now - arrival >= HOLD_S:
                return picture
        return None

    def _is_moving(self) -> bool:
        if not self._tracks:
            return False
        return any(track["state"] != LOST for track in self._tracks[-1][1]["tracks"])

    def _next_tracks(self, now: float) -> Shown | None:
        """New tracks of the image that is shown, or of one that does not arrive."""
        if not self._tracks or self._waiting:
            return None
        arrival, tracks = self._tracks[-1]
        if tracks is self._shown_tracks:
            return None
        is_shown = self._shown_stamp is not None and tracks["stamp"] <= self._shown_stamp
        return Shown(None, tracks) if is_shown or now - arrival >= HOLD_S else None
