"""A recording drawn over its footage: an overlay video and a contact sheet, in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.media.overlay import (
    VideoWriter,
    contact_sheet,
    draw,
    enlarged,
    reduced,
    write_image,
)
from llava_st_ros.records import NANOSECONDS, Frame

SHEET_PICTURES = 12


def write_pictures(
    frames: Iterable[Frame],
    recording: Recording,
    stamps: Sequence[int],
    *,
    video: Path | None = None,
    sheet: Path | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Draw what the recording knows of each frame. ``stamps`` are the footage's (ns), in order.

    Tracks are drawn where they cover a frame (``Recording.query_tube`` says when that is). The
    sheet holds pictures spread over the frames that have a track, or over all where none has.
    """
    shown = _spread(
        [stamp for stamp in stamps if recording.tracks_at(stamp)] or list(stamps), SHEET_PICTURES
    )
    pictures: dict[int, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(video, frame_rate(stamps))) if video else None
        for frame in frames:
            wanted = sheet is not None and frame.stamp in shown
            if writer is not None or wanted:
                picture = draw(
                    enlarged(frame.image),
                    recording.tracks_at(frame.stamp),
                    recording.events_at(frame.stamp),
                )
                if writer is not None:
                    writer.write(picture)
                if wanted:
                    pictures[frame.stamp] = reduced(picture)
            on_frame()
    if sheet is not None and pictures:
        write_image(sheet, contact_sheet([pictures[stamp] for stamp in sorted(pictures)]))


def frame_rate(stamps: Sequence[int]) -> float:
    """Frames a second of a footage with these stamps: one over their median distance."""
    steps = np.diff(np.asarray(sorted(set(stamps)), np.int64)).astype(np.float64)
    return NANOSECONDS / float(np.median(steps)) if len(steps) else 1.0


def _spread(stamps: Sequence[int], count: int) -> set[int]:
    places = np.linspace(0, len(stamps) - 1, min(count, len(stamps))).round().astype(int)
    return {stamps[place] for place in places}
