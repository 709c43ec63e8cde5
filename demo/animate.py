"""Render the demo's output as a short animation: docs/images/demo.webp.

    scripts/with_ros python -m demo.animate [--demo out/demo] [--out docs/images/demo.webp]

Run the demo first. Each frame of the animation is one of overlay.mp4 above a timeline of the
standing queries: a bar per event (STVG) or per track (REC), drawn up to the current time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.annotations.records import AnnotatedQuery
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.files.limits import JSON_BYTES
from llava_st_ros.files.raw import read_text
from llava_st_ros.media.overlay import Color, color_of
from llava_st_ros.media.sources import BagSource, VideoSource
from llava_st_ros.records import NANOSECONDS, Modality, Span

_RUN_DEMO = "run `make demo` first"
ROOT = Path(__file__).resolve().parents[1]
WIDTH, ROW_HEIGHT, MARGIN = 480, 32, 8  # pixels
LABEL_WIDTH, TIME_WIDTH = 200, 60  # pixels; the bars are between the label and the time
FRAMES_PER_SECOND, SPEED = 10, 2.0  # of the animation; footage seconds per animation second
QUALITY = 70  # WebP
FONT = cv2.FONT_HERSHEY_SIMPLEX
BACKGROUND, TEXT, RAIL = (24, 24, 28), (235, 235, 235), (70, 70, 78)


@dataclass(frozen=True)
class Row:
    """A query's row of the timeline; ``spans`` (ns) are those of its events or tracks."""

    text: str
    color: Color
    spans: tuple[Span, ...]


def read_rows(folder: Path, queries: Sequence[AnnotatedQuery]) -> list[Row]:
    """Read each query's spans from events.jsonl and tracks.jsonl."""
    events, tracks = (_read_lines(folder / f"{name}.jsonl") for name in ("events", "tracks"))
    rows = []
    for query in queries:
        if query.task.modality is Modality.VIDEO:
            spans = [Span(e["start"], e["end"]) for e in events if e["query_id"] == query.id]
        else:
            tubes = [track["tube"] for track in tracks if track["query_id"] == query.id]
            spans = [Span(tube[0]["stamp"], tube[-1]["stamp"]) for tube in tubes]
        rows.append(Row(query.text, color_of(query.id), tuple(spans)))
    return rows


def draw_timeline(rows: Sequence[Row], first: int, last: int, now: int) -> np.ndarray:
    """Draw the rows at a stamp: RGB uint8 [H, WIDTH, 3].

    Args:
        rows: The rows, from top to bottom.
        first: Stamp of the footage's first frame (ns).
        last: Stamp of the footage's last frame (ns).
        now: Bars are drawn up to this stamp (ns).
    """
    canvas = np.full((len(rows) * ROW_HEIGHT + 2 * MARGIN, WIDTH, 3), BACKGROUND, np.uint8)
    left, right = LABEL_WIDTH, WIDTH - TIME_WIDTH

    def column(stamp: int) -> int:
        return left + round((stamp - first) / (last - first) * (right - left))

    for index, row in enumerate(rows):
        middle = MARGIN + index * ROW_HEIGHT + ROW_HEIGHT // 2
        swatch = (MARGIN, middle - 6), (MARGIN + 12, middle + 6)
        cv2.rectangle(canvas, *swatch, row.color, cv2.FILLED)
        _put_text(canvas, row.text, (MARGIN + 20, middle + 5))
        cv2.rectangle(canvas, (left, middle - 2), (right, middle + 2), RAIL, cv2.FILLED)
        for span in row.spans:
            if span.start <= now:
                start, end = column(span.start), column(min(span.end, now))
                cv2.rectangle(canvas, (start, middle - 9), (end, middle + 9), row.color, cv2.FILLED)
    head = column(now)
    cv2.line(canvas, (head, MARGIN), (head, canvas.shape[0] - MARGIN), TEXT, 1)
    time = f"{(now - first) / NANOSECONDS:4.1f} s"
    _put_text(canvas, time, (right + 8, canvas.shape[0] // 2 + 5))
    return canvas


def render(video: Path, stamps: Sequence[int], rows: Sequence[Row]) -> Iterator[np.ndarray]:
    """Yield the animation's frames, RGB uint8 [H, WIDTH, 3]."""
    step = round(NANOSECONDS * SPEED / FRAMES_PER_SECOND)
    due = stamps[0]
    for frame, stamp in zip(VideoSource(video), stamps):
        if stamp < due:
            continue
        due += step
        height = round(WIDTH * frame.height / frame.width)
        image = cv2.resize(frame.image, (WIDTH, height), interpolation=cv2.INTER_AREA)
        yield np.vstack([image, draw_timeline(rows, stamps[0], stamps[-1], stamp)])


def write_animation(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write a looping animation in the format of the path's suffix (.webp or .gif)."""
    images = [Image.fromarray(frame) for frame in frames]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        images[0].save(
            path,
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / FRAMES_PER_SECOND),  # ms
            loop=0,
            quality=QUALITY,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [
        parse_json(line, f"{path}:{number}", DataError, _RUN_DEMO)
        for number, line in enumerate(
            read_text(path, DataError, _RUN_DEMO, max_bytes=JSON_BYTES).splitlines(), start=1
        )
    ]


def _put_text(canvas: np.ndarray, text: str, bottom_left: tuple[int, int]) -> None:
    cv2.putText(canvas, text, bottom_left, FONT, 0.5, TEXT, 1, cv2.LINE_AA)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=ROOT / "out/demo", help="output of the demo")
    parser.add_argument("--bag", type=Path, default=ROOT / "demo/bag", help="bag of the demo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/demo.webp")
    options = parser.parse_args()
    try:
        rows = read_rows(options.demo, read_annotations(annotation_path(options.bag)).queries)
        stamps = [frame.stamp for frame in BagSource(options.bag)]
        frames = list(render(options.demo / "overlay.mp4", stamps, rows))
        write_animation(options.out, frames)
    except LlavaStError as error:
        print(f"animate: {error}", file=sys.stderr)
        return 2
    seconds = len(frames) / FRAMES_PER_SECOND
    print(f"wrote {options.out}: {seconds:.0f} s, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
