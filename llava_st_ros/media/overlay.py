"""Draws tracks and events on images; writes overlay videos and contact sheets."""

from __future__ import annotations

import colorsys
import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

import llava_st_ros.media.opencv_log  # noqa: F401
from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.errors import DataError, reason_of
from llava_st_ros.records import Event, EventState, Track, TrackState

Color = tuple[int, int, int]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_HUES = 12
_STATES = {
    TrackState.GROUNDED: "",
    TrackState.PROPAGATED: " (propagated)",
    TrackState.LOST: " (lost)",
}
_MARKS = {
    EventState.PROVISIONAL: "?",
    EventState.CONFIRMED: "=",
    EventState.ENDED: "|",
    EventState.RETRACTED: "x",
}


def color_of(query_id: str, track_id: int = 0) -> Color:
    """Return the RGB color of a track: a hue per query, a shade per track.

    The color depends on the ids only. Ids that differ by one in their last character ("q1", "q2")
    have clearly different hues.
    """
    hue = sum(query_id.encode()) * 5 % _HUES / _HUES  # 5 and 12 are coprime: every hue occurs
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0 - 0.15 * (track_id % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


def label_of(track: Track) -> str:
    """The text beside a track's box: its query, its id and, unless it is GROUNDED, its state."""
    return f"{track.label} #{track.track_id}{_STATES[track.state]}"


def draw(image: np.ndarray, tracks: Sequence[Track], events: Sequence[Event] = ()) -> np.ndarray:
    """Draw each track's current box and a line of text per event on a copy of an image.

    A GROUNDED box is solid, a PROPAGATED one dashed, a LOST one thin and dashed. Labels stay inside
    the image and do not overlap as long as there is room.

    Args:
        image: RGB uint8 [H, W, 3].
        tracks: The tracks; later ones are drawn on top.
        events: The events, in the order of their lines from top to bottom.

    Returns:
        RGB uint8 [H, W, 3].
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    occupied: list[tuple[int, int, int, int]] = []
    for track in tracks:
        color = color_of(track.query_id, track.track_id)
        x1, y1, x2, y2 = (round(v) for v in track.box.clipped().to_pixels(width - 1, height - 1))
        thickness = 1 if track.state is TrackState.LOST else max(1, round(_scale(canvas) * 4))
        if track.state is TrackState.GROUNDED:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)
        else:
            _dashed(canvas, (x1, y1, x2, y2), color, thickness)
        _label(canvas, label_of(track), (x1, y1), color, occupied)
    for row, event in enumerate(reversed(events)):
        text = f"{_MARKS[event.state]} {event.text}: {event.state.name.lower()}"
        line = _line_height(canvas)
        _label(canvas, text, (0, height - row * line), color_of(event.query_id), occupied)
    return canvas


def enlarged(image: np.ndarray, min_height: int = 432) -> np.ndarray:
    """Enlarge an image by an integer factor to at least ``min_height``, for readable labels."""
    factor = -(-min_height // image.shape[0])
    if factor <= 1:
        return image
    size = image.shape[1] * factor, image.shape[0] * factor
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def reduced(image: np.ndarray, max_width: int = 480) -> np.ndarray:
    """Reduce an image to at most ``max_width``, keeping its aspect ratio."""
    if image.shape[1] <= max_width:
        return image
    height = max(1, round(image.shape[0] * max_width / image.shape[1]))
    return cv2.resize(image, (max_width, height), interpolation=cv2.INTER_AREA)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, gap: int = 6) -> np.ndarray:
    """Arrange images [H, W, 3] of one size in rows of ``columns`` on a white background."""
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_image(path: Path, image: np.ndarray) -> None:
    """Write RGB [H, W, 3] atomically in the format of the path's suffix; DataError if it fails."""
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise DataError(f"{path} cannot be written: no image format has this suffix or size")
    try:
        with atomic_file(path) as part:
            part.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason_of(error)}") from error


class VideoWriter:
    """Writes RGB frames to a video, .mp4 or .avi, atomically.

    The video has the size of its first frame; later frames are resized to it.

    Raises:
        DataError: OpenCV cannot write the file, or cannot read all frames back on leaving the
            context, e.g. because the disk is full.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self._fps, self.frames = path, fps, 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a frame, RGB uint8 [H, W, 3]."""
        if self._writer is None:
            self._size = image.shape[1], image.shape[0]
            codec = cv2.VideoWriter.fourcc(*("MJPG" if self.path.suffix == ".avi" else "mp4v"))
            self._part = self._stack.enter_context(atomic_file(self.path))
            # With its folder: the part of a name before a colon would be taken for a protocol.
            path = str(self._part.absolute())
            self._writer = cv2.VideoWriter(path, codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise DataError(f"{self.path} cannot be written as a video")
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._check_complete()

    def _check_complete(self) -> None:
        """Raise DataError unless all frames can be read back: OpenCV does not say a full disk."""
        capture = cv2.VideoCapture(str(self._part.absolute()))
        count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.set(cv2.CAP_PROP_POS_FRAMES, self.frames - 1)
        is_complete = count >= self.frames and capture.read()[0]
        capture.release()
        if not is_complete:
            raise DataError(
                f"{self.path} cannot be written: of {self.frames} frames not all can be read back",
                "free disk space or write to another disk",
            )


def _scale(canvas: np.ndarray) -> float:
    return max(0.35, canvas.shape[0] / 900)


def _line_height(canvas: np.ndarray) -> int:
    return round(30 * _scale(canvas))


def _label(
    canvas: np.ndarray,
    text: str,
    bottom_left: tuple[int, int],
    color: Color,
    occupied: list[tuple[int, int, int, int]],
) -> None:
    """Draw text on a colored background above a point, moved to free space in the image."""
    scale, line = _scale(canvas), _line_height(canvas)
    height, width = canvas.shape[:2]
    text = text.encode("ascii", "replace").decode()  # OpenCV 4's font is ASCII only
    while len(text) > 4 and cv2.getTextSize(text, _FONT, scale, 1)[0][0] > width - 4:
        text = text[:-4] + "..."
    text_width = cv2.getTextSize(text, _FONT, scale, 1)[0][0] + 4
    left = max(0, min(bottom_left[0], width - text_width))
    top = max(0, min(bottom_left[1] - line, height - line))
    for offset in (0, *(sign * i * line for i in range(1, height // line) for sign in (1, -1))):
        area = left, top + offset, left + text_width, top + offset + line
        if area[1] >= 0 and area[3] <= height and not any(_overlap(area, o) for o in occupied):
            top += offset
            break
    occupied.append((left, top, left + text_width, top + line))
    cv2.rectangle(canvas, (left, top), (left + text_width - 1, top + line - 1), color, cv2.FILLED)
    red, green, blue = color
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)
    baseline = top + round(line * 0.72)
    cv2.putText(canvas, text, (left + 2, baseline), _FONT, scale, ink, 1, cv2.LINE_AA)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _dashed(
    canvas: np.ndarray, box: tuple[int, int, int, int], color: Color, thickness: int
) -> None:
    x1, y1, x2, y2 = box
    dash = max(3, min(canvas.shape[:2]) // 60)
    for a, b in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)),
                 ((x2, y1), (x2, y2))):  # fmt: skip
        length = max(abs(b[0] - a[0]), abs(b[1] - a[1]))
        for start in range(0, max(1, length), 2 * dash):
            ends = [
                tuple(round(p + (q - p) * min(1.0, s / max(1, length))) for p, q in zip(a, b))
                for s in (start, start + dash)
            ]
            cv2.line(canvas, ends[0], ends[1], color, thickness)
