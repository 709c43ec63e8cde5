"""The demo's animation: timeline, frames and file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.animate import (
    FRAMES_PER_SECOND,
    LABEL_WIDTH,
    MARGIN,
    ROW_HEIGHT,
    SPEED,
    WIDTH,
    Row,
    draw_timeline,
    read_rows,
    render,
    write_animation,
)
from llava_st_ros.annotations.records import AnnotatedQuery
from llava_st_ros.errors import DataError
from llava_st_ros.media.overlay import VideoWriter, color_of
from llava_st_ros.records import NANOSECONDS, Span, Task

QUERIES = (
    AnnotatedQuery("e", "the ball rolls", Task.STVG, "/camera"),
    AnnotatedQuery("t", "the ball", Task.REC, "/camera"),
)


def write_lines(path: Path, *lines: object) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rows_hold_events_of_video_queries_and_tracks_of_image_queries(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.jsonl", {"query_id": "e", "start": 1, "end": 3})
    tubes = [{"query_id": name, "tube": [{"stamp": 2}, {"stamp": 5}]} for name in "et"]
    write_lines(tmp_path / "tracks.jsonl", *tubes)
    rows = read_rows(tmp_path, QUERIES)
    assert [row.spans for row in rows] == [(Span(1, 3),), (Span(2, 5),)]
    assert [row.color for row in rows] == [color_of("e"), color_of("t")]


def test_missing_demo_output_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"events\.jsonl.*make demo"):
        read_rows(tmp_path, QUERIES)


def test_timeline_shows_spans_up_to_the_current_stamp() -> None:
    color = (255, 0, 0)
    row = Row("the ball rolls", color, (Span(20, 60), Span(80, 90)))
    lengths = []
    for now in (10, 40, 70, 100):
        timeline = draw_timeline([row], 0, 100, now)
        above_rail = timeline[MARGIN + ROW_HEIGHT // 2 - 8, LABEL_WIDTH:]
        lengths.append((above_rail == color).all(axis=1).sum())
    assert lengths[0] == 0
    assert 0 < lengths[1] < lengths[2] < lengths[3]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animation_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    rate, seconds = 15, 4
    with VideoWriter(tmp_path / "overlay.mp4", rate) as writer:
        for i in range(rate * seconds):
            writer.write(np.full((96, 96, 3), 4 * i, np.uint8))
    stamps = [i * NANOSECONDS // rate for i in range(rate * seconds)]
    frames = list(render(tmp_path / "overlay.mp4", stamps, [Row("x", (255, 0, 0), ())]))
    assert len(frames) == pytest.approx(seconds / SPEED * FRAMES_PER_SECOND, abs=1)
    assert frames[0].shape == (WIDTH + ROW_HEIGHT + 2 * MARGIN, WIDTH, 3)
    write_animation(tmp_path / f"new/demo{suffix}", frames)
    with Image.open(tmp_path / f"new/demo{suffix}") as image:
        assert image.n_frames == len(frames)
        assert image.size == (frames[0].shape[1], frames[0].shape[0])


def test_unsupported_suffix_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_animation(tmp_path / "demo.xyz", [np.zeros((8, 8, 3), np.uint8)] * 2)
