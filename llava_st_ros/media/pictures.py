"""An overlay video and a contact sheet of annotated footage, drawn in one pass.

Depends on frames, tracks and events only, not on where they come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_st_ros.media.overlay import (
    VideoWriter,
    contact_sheet,
    draw,
    enlarged,
    reduced,
    write_image,
)
from llava_st_ros.records import NANOSECONDS, Event, Frame, Track

SHEET_IMAGES = 12


@dataclass(frozen=True)
class Annotations:
    """What to draw on one frame: each track's current box and a line per event."""

    tracks: Sequence[Track] = ()
    events: Sequence[Event] = ()


def write_pictures(
    frames: Iterable[Frame],
    annotations: Sequence[Annotations],
    *,
    fps: float,
    video: Path | None = None,
    sheet: Path | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Draw annotated frames into an overlay video, a contact sheet or both.

    Args:
        frames: The footage.
        annotations: What to draw on each frame of the footage.
        fps: Frame rate of the overlay video (see ``frame_rate``).
        video: Path of the overlay video (.mp4 or .avi); None writes none.
        sheet: Path of the contact sheet; None writes none. It shows SHEET_IMAGES frames, spread
            evenly over those with a track, or over all frames if none has one.
        on_frame: Called after each frame.

    Raises:
        DataError: A file cannot be written.
    """
    tracked = [number for number, shown in enumerate(annotations) if shown.tracks]
    on_sheet = _spread(tracked or range(len(annotations)), SHEET_IMAGES) if sheet else set()
    sheet_images: list[np.ndarray] = []
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(video, fps)) if video else None
        for number, (frame, shown) in enumerate(zip(frames, annotations)):
            if writer is not None or number in on_sheet:
                image = draw(enlarged(frame.image), shown.tracks, shown.events)
                if writer is not None:
                    writer.write(image)
                if number in on_sheet:
                    sheet_images.append(reduced(image))
            on_frame()
    if sheet is not None and sheet_images:
        write_image(sheet, contact_sheet(sheet_images))


def frame_rate(stamps: Sequence[int]) -> float:
    """Return the frames per second of footage with these stamps (ns): 1 / median interval.

    Returns 1.0 for fewer than two distinct stamps. Steps back, where the clock jumps, do not count.

    >>> frame_rate([0, 100_000_000, 200_000_000, 900_000_000])
    10.0
    """
    steps = np.diff(np.asarray(stamps, np.int64)).astype(np.float64)
    steps = steps[steps > 0]
    return NANOSECONDS / float(np.median(steps)) if len(steps) else 1.0


def _spread(numbers: Sequence[int], count: int) -> set[int]:
    indices = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return {numbers[index] for index in indices}
