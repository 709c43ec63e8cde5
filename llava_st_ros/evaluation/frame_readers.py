"""Single frames of recordings by stamp, for the pictures of a report."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from llava_st_ros.errors import LlavaStError
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.overlay import reduced
from llava_st_ros.media.sources import IMAGE_SUFFIXES, ImageSource, Source, VideoSource
from llava_st_ros.records import NANOSECONDS

TOLERANCE = NANOSECONDS // 2  # ns; a frame further away does not show what was at a stamp
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")


@dataclass(frozen=True)
class MissingFrame:
    """There is no image, and why."""

    reason: str


TOO_FAR = MissingFrame(f"no frame within {TOLERANCE / NANOSECONDS:g} s")


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


def _bag_frames(
    path: Path, topic: str, stamps: Collection[int], width: int
) -> dict[int, np.ndarray | MissingFrame]:
    bag = BagFrames(Bag(path), topic or None)
    bag.read_index()
    frames: dict[int, np.ndarray | MissingFrame] = {}
    for stamp in stamps:
        after = bisect_left(bag.stamps, stamp)
        near = range(max(0, after - 1), min(after + 1, len(bag.stamps)))
        number = min(near, key=lambda n: abs(bag.stamps[n] - stamp))
        if abs(bag.stamps[number] - stamp) > TOLERANCE:
            frames[stamp] = TOO_FAR
            continue
        try:
            frames[stamp] = reduced(bag.image(number), width)
        except LlavaStError as error:
            frames[stamp] = MissingFrame(error.problem)
    return frames


def _nearest_frames(
    source: Source, stamps: Collection[int], width: int
) -> dict[int, np.ndarray | MissingFrame]:
    wanted = sorted(set(stamps))
    nearest: dict[int, int] = {}  # stamp of the nearest frame until now
    frames: dict[int, np.ndarray | MissingFrame] = dict.fromkeys(wanted, TOO_FAR)
    for frame in source:
        first = bisect_left(wanted, frame.stamp - TOLERANCE)
        last = bisect_right(wanted, frame.stamp + TOLERANCE)
        nearer = [
            stamp
            for stamp in wanted[first:last]
            if stamp not in nearest or abs(frame.stamp - stamp) < abs(nearest[stamp] - stamp)
        ]
        if nearer:
            frames |= dict.fromkeys(nearer, reduced(frame.image, width))
            nearest |= dict.fromkeys(nearer, frame.stamp)
    return frames
