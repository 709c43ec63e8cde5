"""An image of clips to be inspected by eye: rows of frames with boxes, and the events below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from llava_st_ros.simulation.phrasing import event_sentence
from llava_st_ros.simulation.simulator import SimulatedClip

_COLUMNS = 10
_HEIGHT = 16  # pixels of a line of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def contact_sheet(clips: Sequence[SimulatedClip]) -> np.ndarray:
    """Return RGB uint8 [H, W, 3]: for each clip a row of evenly chosen frames.

    Boxes are green; white where their object is the subject of an event in that frame.
    """
    return np.concatenate([_row(clip) for clip in clips])


def _row(clip: SimulatedClip) -> np.ndarray:
    frames = np.unique(np.linspace(0, len(clip.frames) - 1, _COLUMNS).round().astype(int))
    marked = [_marked(clip, int(frame)) for frame in frames]
    row = np.concatenate(marked, axis=1)
    sentences = [
        f"{event_sentence(event, clip.objects)} {event.span[0]}-{event.span[1]}"
        for event in clip.events
    ]
    lines = [f"{clip.seed}: {'; '.join(sentences)}"]
    lines.append(
        f"frames {', '.join(map(str, frames))}; {', '.join(o.full_name for o in clip.objects)}"
    )
    text = np.zeros((_HEIGHT * len(lines), row.shape[1], 3), dtype=np.uint8)
    for number, line in enumerate(lines):
        place = (2, _HEIGHT * (number + 1) - 4)
        cv2.putText(text, line, place, _FONT, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([row, text])


def _marked(clip: SimulatedClip, frame: int) -> np.ndarray:
    image = clip.frames[frame].copy()
    size = len(image)
    active = {e.subject for e in clip.events if e.span[0] <= frame <= e.span[1]}
    for index, box in enumerate(clip.boxes[frame]):
        if not np.isnan(box[0]):
            x1, y1, x2, y2 = (int(v) for v in np.rint(box * size))
            color = (255, 255, 255) if index in active else (0, 200, 0)
            cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), color, 1)
    return image
