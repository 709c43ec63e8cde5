"""An overlay video and a contact sheet of annotated footage, drawn in one pass.

Depends on frames, tracks and events only, not on where they come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    annotations: Mapping[int, Annotations],
    *,
    video: Path | None = None,
    sheet: Path | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Draw annotated frames into an overlay video, a contact sheet or both.

    Args:
        frames: The footage.
        annotations: What to draw, by stamp (ns), with an entry for every frame of the footage.
        video: Path of the overlay video (.mp4 or .avi); None writes none.
        sheet: Path of the contact sheet; None writes none. It shows SHEET_IMAGES frames, spread
            evenly over those with a track, or over all frames if none has one.
        on_frame: Called after each frame.

    Raises:
        DataError: A file cannot be written.
    """
    stamps = list(annotations)
    tracked = [stamp for stamp in stamps if annotations[stamp].tracks]
    sheet_stamps = _spread(tracked or stamps, SHEET_IMAGES) if sheet is not None else set()
    sheet_images: dict[int, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(video, frame_rate(stamps))) if video else None
        for frame in frames:
            on_sheet = frame.stamp in sheet_stamps
            if writer is not None or on_sheet:
                shown = annotations[frame.stamp]
                image = draw(enlarged(frame.image), shown.tracks, shown.events)
                if writer is not None:
                    writer.write(image)
                if on_sheet:
                    sheet_images[frame.stamp] = reduced(image)
            on_frame()
    if sheet is not None and sheet_images:
        write_image(sheet, contact_sheet([sheet_images[stamp] for stamp in sorted(sheet_images)]))


def frame_rate(stamps: Collection[int]) -> float:
    """Return the frames per second of footage with these stamps (ns): 1 / median interval.

    Returns 1.0 for fewer than two distinct stamps.

    >>> frame_rate([0, 100_000_000, 200_000_000, 900_000_000])
    10.0
    """
    steps = np.diff(np.asarray(sorted(set(stamps)), np.int64)).astype(np.float64)
    return NANOSECONDS / float(np.median(steps)) if len(steps) else 1.0


def _spread(stamps: Sequence[int], count: int) -> set[int]:
    indices = np.linspace(0, len(stamps) - 1, min(count, len(stamps))).round().astype(int)
    return {stamps[index] for index in indices}
