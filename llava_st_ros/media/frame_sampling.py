"""Frames of footage spread evenly over a window, as the published model samples a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llava_st_ros.media.sources import Source


@dataclass(frozen=True)
class FrameSample:
    """The sampled frames of a source. Frame i of the footage has the index i.

    Attributes:
        indices: The index of each of the window's frames, increasing; short footage repeats frames.
        images: The transformed image of each sampled frame that the footage has, by index.
        stamps: The stamps (ns) of the frames that were read, which are all up to the last one of
            the window.
    """

    indices: tuple[int, ...]
    images: dict[int, np.ndarray]
    stamps: tuple[int, ...]


def frame_indices(first: int, last: int, num_frames: int) -> list[int]:
    """Spread a window evenly over frames first..last of a video, as the published code does.

    Halves are rounded to even, as by Python's ``round``.

    >>> frame_indices(10, 17, 4)
    [10, 12, 15, 17]
    """
    steps = max(1, num_frames - 1)
    return [first + round(i / steps * (last - first)) for i in range(num_frames)]


def sample_frames(
    source: Source,
    num_frames: int,
    transform: Callable[[np.ndarray], np.ndarray],
    crop: tuple[int, int] | None = None,
) -> FrameSample:
    """Read a window's frames; if the container's frame count is wrong, again with the real one.

    Args:
        source: The footage.
        num_frames: Frames in the window.
        transform: Applied to each sampled image, RGB uint8 [H, W, 3], so that large images need not
            be kept.
        crop: The first and last frame of the window, both included; None for all footage. The
            sample lacks the frames past the end of the footage.

    Raises:
        DataError: There is no readable frame.
    """
    length = source.length or 0
    for _ in range(2):
        first, last = crop or (0, max(0, length - 1))
        indices = frame_indices(first, last, num_frames)
        selected, images = set(indices), {}
        stamps: list[int] = []
        for frame in source:
            if len(stamps) in selected:
                images[len(stamps)] = transform(frame.image)
            stamps.append(frame.stamp)
            if crop and len(stamps) > last:
                break
        if crop or len(stamps) == length:
            break
        length = len(stamps)
    return FrameSample(tuple(indices), images, tuple(stamps))
