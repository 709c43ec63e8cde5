"""Single frames of recordings by stamp, for the pictures of a report."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from llava_st_ros.errors import FrameError, LlavaStError
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.bags.bag import ImageMessage
from llava_st_ros.media.image_decoding import decode_message
from llava_st_ros.media.overlay import reduced
from llava_st_ros.media.sources import IMAGE_SUFFIXES, ImageSource, Source, VideoSource
from llava_st_ros.records import NANOSECONDS

TOLERANCE = NANOSECONDS // 2  # ns; a frame further away does not show what was at a stamp
T = TypeVar("T")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")


@dataclass(frozen=True)
class MissingFrame:
    """There is no image, and why."""

    reason: str


class FrameReader(Protocol):
    """Reads the frames that a report shows."""

    def read(
        self, source: str, topic: str, stamps: Collection[int], width: int
    ) -> Mapping[int, np.ndarray | MissingFrame]:
        """Return the frame nearest to each stamp.

        Args:
            source: A case's source.
            topic: The case's image topic; empty where the source has none.
            stamps: Stamps in ns.
            width: Images are reduced to at most this many pixels in width.

        Returns:
            For each stamp the image, RGB uint8 [H, W, 3], or why there is none.
        """
        ...


@dataclass(frozen=True)
class NoFrames:
    """Reads nothing, as the footage is not stored."""

    reason: str = "the footage is not stored"

    def read(
        self, source: str, topic: str, stamps: Collection[int], width: int
    ) -> Mapping[int, np.ndarray | MissingFrame]:
        return {stamp: MissingFrame(self.reason) for stamp in stamps}


@dataclass(frozen=True)
class RecordedFrames:
    """Reads frames of bags, videos and images.

    Attributes:
        folders: Where a source with a relative path is looked for, in this order, and then one
            with the same name, as recordings are moved.
    """

    folders: tuple[Path, ...] = (Path(),)

    def find(self, source: str) -> Path | None:
        """Return the path of a source that exists; None if it does not."""
        names = [Path(source), Path(Path(source).name)] if source else []
        for name in names:
            for folder in self.folders:
                try:
                    if (folder / name).exists():
                        return folder / name
                except (OSError, ValueError):  # no file has this name
                    continue
        return None

    def read(
        self, source: str, topic: str, stamps: Collection[int], width: int
    ) -> Mapping[int, np.ndarray | MissingFrame]:
        path = self.find(source)
        if path is None:
            return NoFrames(f"{source} was not found").read(source, topic, stamps, width)
        try:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                return _nearest_frames(VideoSource(path), stamps, width)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                return _nearest_frames(ImageSource(path), stamps, width)
            return _bag_frames(path, topic, stamps, width)
        except LlavaStError as error:
            return NoFrames(error.problem).read(source, topic, stamps, width)


def _nearest_frames(
    source: Source, stamps: Collection[int], width: int
) -> dict[int, np.ndarray | MissingFrame]:
    nearest = _Nearest[np.ndarray](stamps)
    for frame in source:
        if nearest.wants(frame.stamp):
            nearest.offer(frame.stamp, reduced(frame.image, width))
    return nearest.found()


def _bag_frames(
    path: Path, topic: str, stamps: Collection[int], width: int
) -> dict[int, np.ndarray | MissingFrame]:
    """Read a bag once; messages are decoded only where no other is nearer."""
    nearest = _Nearest[ImageMessage](stamps)
    for stamp, message in _stamped(path, topic):
        if nearest.wants(stamp):
            nearest.offer(stamp, message)
    frames: dict[int, np.ndarray | MissingFrame] = {}
    for stamp, found in nearest.found().items():
        if isinstance(found, MissingFrame):
            frames[stamp] = found
            continue
        try:
            frames[stamp] = reduced(decode_message(found.message), width)
        except FrameError as error:
            frames[stamp] = MissingFrame(error.problem)
    return frames


def _stamped(path: Path, topic: str) -> Iterator[tuple[int, ImageMessage]]:
    bag = Bag(path)
    for message in bag.images(bag.image_topic(topic or None)):
        try:
            yield message.stamp, message
        except FrameError:  # counted by the evaluation
            continue


class _Nearest(Generic[T]):
    """The value nearest to each of some stamps, whatever the order in which values come."""

    def __init__(self, stamps: Collection[int]) -> None:
        self._wanted = sorted(set(stamps))
        self._found: dict[int, tuple[int, T]] = {}  # distance in ns, and the value

    def wants(self, stamp: int) -> bool:
        """Return whether a value of this stamp is nearer to a wanted stamp than all before."""
        return next(self._improved(stamp), None) is not None

    def offer(self, stamp: int, value: T) -> None:
        """Keep the value for each wanted stamp that it is nearest to."""
        for wanted in self._improved(stamp):
            self._found[wanted] = abs(stamp - wanted), value

    def found(self) -> dict[int, T | MissingFrame]:
        """Return the nearest value of each wanted stamp."""
        return {
            wanted: self._found[wanted][1]
            if wanted in self._found
            else MissingFrame(f"no frame within {TOLERANCE / NANOSECONDS:g} s")
            for wanted in self._wanted
        }

    def _improved(self, stamp: int) -> Iterator[int]:
        first = bisect_left(self._wanted, stamp - TOLERANCE)
        last = bisect_right(self._wanted, stamp + TOLERANCE)
        for wanted in self._wanted[first:last]:
            if wanted not in self._found or abs(stamp - wanted) < self._found[wanted][0]:
                yield wanted
