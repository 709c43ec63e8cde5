"""Overlays, contact sheets and videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.media.overlay import (
    VideoWriter,
    color_of,
    contact_sheet,
    draw,
    enlarged,
    write_image,
)
from llava_st_ros.records import Box, BoxTube, Event, EventState, Span, Track, TrackState

GRAY = np.full((240, 320, 3), 128, np.uint8)


def track(box: Box, state: TrackState = TrackState.GROUNDED, label: str = "ball", id: int = 1):
    return Track("q1", id, label, BoxTube((5,), (box,)), state, 0.5, "cam", "cam", 320, 240)


def event(text: str = "the ball rolls") -> Event:
    return Event("q1", 1, text, Span(0, 5), EventState.CONFIRMED, 0.5, "cam", "cam")


def drawn(*tracks: Track) -> np.ndarray:
    """Mask bool [H, W] of the pixels that were drawn on."""
    return (draw(GRAY, tracks) != GRAY).any(axis=2)


def test_only_the_edges_of_a_box_are_drawn() -> None:
    mask = drawn(track(Box(0.25, 0.5, 0.5, 0.75)))
    rows, columns = np.flatnonzero(mask[:, 120]), np.flatnonzero(mask[150])
    assert abs(rows[-1] - 180) <= 2  # the lower edge
    assert abs(columns[0] - 80) <= 2
    assert abs(columns[-1] - 160) <= 2
    assert not mask[130:170, 90:150].any()
    np.testing.assert_array_equal(GRAY, 128)  # the input image is unchanged


def test_track_state_changes_the_line_style() -> None:
    box = Box(0.25, 0.5, 0.5, 0.75)
    masks = {state: drawn(track(box, state)) for state in TrackState}
    edge = {state: mask[120:182, 78:83].any(axis=1).mean() for state, mask in masks.items()}
    assert edge[TrackState.GROUNDED] > 0.95  # solid
    assert edge[TrackState.PROPAGATED] < 0.75  # dashed
    assert edge[TrackState.LOST] < 0.75
    assert masks[TrackState.LOST].sum() != masks[TrackState.PROPAGATED].sum()


def test_labels_stay_inside_the_image_and_do_not_overlap() -> None:
    corners = [
        track(Box(0.9, 0.0, 1.0, 0.1), label="a very long label " * 9),
        track(Box(0.91, 0.0, 1.0, 0.1), label="another", id=2),
        track(Box(-0.2, 0.95, 1.4, 1.2), label="outside \u7403", id=3),
    ]
    one, two = (draw(GRAY, [t]) for t in corners[:2])
    both = draw(GRAY, corners[:2])
    background = np.array(color_of("q1", 2))
    assert both.shape == GRAY.shape
    assert (two == background).all(axis=2).sum() > 200
    # The second label's background is as large in both images: it moved away from the first.
    assert (both == background).all(axis=2).sum() >= 0.9 * (two == background).all(axis=2).sum()
    assert (one != both).any()
    draw(GRAY, corners, [event("x" * 500), event()])
    draw(np.zeros((8, 8, 3), np.uint8), corners, [event()])  # too small for text, but no error


def test_events_are_drawn_at_the_bottom() -> None:
    mask = (draw(GRAY, [], [event()]) != GRAY).any(axis=2)
    assert mask[-10:, :60].any()
    assert not mask[:200].any()


def test_queries_have_different_colors() -> None:
    assert len({color_of(f"q{i}") for i in range(8)}) == 8
    assert color_of("q1", 0) != color_of("q1", 1)


def test_large_images_are_not_enlarged() -> None:
    assert enlarged(GRAY).shape == (480, 640, 3)
    assert enlarged(np.zeros((720, 10, 3), np.uint8)).shape == (720, 10, 3)


def test_contact_sheet_contains_every_image(tmp_path: Path) -> None:
    images = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(1, 6)]
    sheet = contact_sheet(images, columns=3, gap=4)
    assert sheet.shape == (2 * 24 + 4, 3 * 34 + 4, 3)
    for i, image in enumerate(images):
        top, left = 4 + i // 3 * 24, 4 + i % 3 * 34
        np.testing.assert_array_equal(sheet[top : top + 20, left : left + 30], image)
    write_image(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1], sheet)
    with pytest.raises(DataError, match="written"):
        write_image(tmp_path / "absent" / "sheet.png", sheet)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_video_can_be_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"overlay{suffix}"
    with VideoWriter(path, 10) as writer:
        for i in range(12):
            writer.write(np.full((96, 128, 3), (20 * i, 60, 200), np.uint8))
    capture = cv2.VideoCapture(str(path))
    images = [capture.read()[1] for _ in range(12)]
    assert not capture.read()[0]
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    for i, image in enumerate(images):
        assert np.abs(image.mean(axis=(0, 1)) - (200, 60, 20 * i)).max() < 8


def test_unwritable_video_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"), VideoWriter(tmp_path / "absent/x.mp4", 5) as w:
        w.write(GRAY)
