"""Overlay video and contact sheet of annotated footage."""

from __future__ import annotations

import doctest
from pathlib import Path

import cv2
import numpy as np

from llava_st_ros.media import pictures
from llava_st_ros.media.pictures import Annotations, frame_rate, write_pictures
from llava_st_ros.records import Box, BoxTube, Frame, Track, TrackState

STAMPS = [i * 100_000_000 for i in range(20)]


def test_docstring_examples() -> None:
    results = doctest.testmod(pictures)
    assert results.failed == 0
    assert results.attempted >= 1


def test_video_has_every_frame_and_sheet_only_frames_with_tracks(tmp_path: Path) -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    frames = [Frame(image, stamp) for stamp in STAMPS]
    tube = BoxTube((0,), (Box(0.1, 0.1, 0.5, 0.5),))
    track = Track("q", 1, "ball", tube, TrackState.GROUNDED, 0.5, "camera", "", 64, 48)
    annotations = [Annotations([track] if i in (3, 4) else []) for i in range(len(STAMPS))]
    drawn: list[None] = []
    write_pictures(
        frames,
        annotations,
        fps=frame_rate(STAMPS),
        video=tmp_path / "overlay.mp4",
        sheet=tmp_path / "sheet.png",
        on_frame=lambda: drawn.append(None),
    )
    assert len(drawn) == len(STAMPS)
    video = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(STAMPS)
    assert video.get(cv2.CAP_PROP_FPS) == 10
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 2 * (480 + 6) + 6  # two images, reduced to 480 pixels
