"""Filmstrips: frames of a case with the predicted and the true box."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from llava_st_ros.evaluation.frame_readers import FrameReader, MissingFrame
from llava_st_ros.evaluation.recording import covering_box
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.records import Box, BoxTube

FRAMES = 6
WIDTH = 320  # pixels of an image
QUALITY = 72  # of JPEG
MAX_BYTES = 5 * 2**20  # of all images; 4/3 of it in the page


@dataclass(frozen=True)
class FilmFrame:
    """A frame of a filmstrip.

    Attributes:
        stamp: Header time (ns).
        predicted: The predicted box at this time.
        expected: The true box.
        image: The image as a data URI; empty if it is missing.
        size: Width and height of the image, or of a placeholder.
        missing: Why there is no image.
    """

    stamp: int
    predicted: Box | None
    expected: Box | None
    image: str = ""
    size: tuple[int, int] = (WIDTH, WIDTH * 3 // 4)
    missing: str = ""

    @property
    def iou(self) -> float | None:
        """The IoU of the two boxes; None if one is absent."""
        if self.predicted is None or self.expected is None:
            return None
        return self.predicted.iou(self.expected)


def filmstrips(cases: Sequence[Case], reader: FrameReader) -> dict[str, list[FilmFrame]]:
    """Return the filmstrip of each case by its id; each recording and topic is read once.

    Images are left out, with the reason, once all together would exceed MAX_BYTES.
    """
    stamps = {case.id: film_stamps(case) for case in cases}
    wanted: dict[tuple[str, str], set[int]] = {}
    for case in cases:
        wanted.setdefault((case.source, case.topic), set()).update(stamps[case.id])
    images = {
        place: reader.read(*place, sorted(of_place), WIDTH) if of_place else {}
        for place, of_place in wanted.items()
    }
    budget = MAX_BYTES
    strips: dict[str, list[FilmFrame]] = {}
    for case in cases:
        found = images[case.source, case.topic]
        strips[case.id] = []
        for stamp in stamps[case.id]:
            frame, size = _film_frame(case, stamp, found, budget)
            budget -= size
            strips[case.id].append(frame)
    return strips


def film_stamps(case: Case) -> list[int]:
    """Return up to FRAMES stamps, spread over where something is expected or predicted."""
    timelines = [line for line in (case.expected, case.predicted) if line is not None]
    stamps = sorted({stamp for line in timelines for stamp in line.boxes})
    spans = [span for line in timelines for span in line.spans]
    if spans:
        start, end = min(span[0] for span in spans), max(span[1] for span in spans)
        if not stamps or start < stamps[0] or end > stamps[-1]:
            # In integers: a span of annotations may be as long as a stamp can be.
            spread = (start + (end - start) * n // (FRAMES - 1) for n in range(FRAMES))
            stamps = sorted({*stamps, *spread})
    if not stamps:
        return []
    # Evenly in time: the boxes of one timeline may be denser than those of the other.
    targets = np.linspace(0, stamps[-1] - stamps[0], FRAMES)
    offsets = np.asarray([stamp - stamps[0] for stamp in stamps], np.float64)
    chosen = {stamps[int(np.abs(offsets - target).argmin())] for target in targets}
    return sorted(chosen)


def box_of(timeline: Timeline | None, stamp: int) -> Box | None:
    """Return a timeline's box at a stamp, interpolated between boxes at most 1 s apart."""
    if timeline is None or not timeline.boxes:
        return None
    stamps = tuple(sorted(timeline.boxes))
    return covering_box(BoxTube(stamps, tuple(timeline.boxes[s] for s in stamps)), stamp)


def _film_frame(
    case: Case, stamp: int, images: Mapping[int, np.ndarray | MissingFrame], budget: int
) -> tuple[FilmFrame, int]:
    """A frame and the bytes of its image."""
    predicted, expected = box_of(case.predicted, stamp), box_of(case.expected, stamp)
    image = images.get(stamp, MissingFrame("the frame was not read"))
    if isinstance(image, MissingFrame):
        return FilmFrame(stamp, predicted, expected, missing=image.reason), 0
    size = image.shape[1], image.shape[0]
    encoded, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    if not encoded:
        reason = f"an image of {size[0]} x {size[1]} pixels cannot be a JPEG"
        return FilmFrame(stamp, predicted, expected, missing=reason), 0
    if data.nbytes > budget:
        reason = f"left out: the images of this page would exceed {MAX_BYTES / 2**20:g} MiB"
        return FilmFrame(stamp, predicted, expected, size=size, missing=reason), 0
    uri = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
    return FilmFrame(stamp, predicted, expected, uri, size), data.nbytes
