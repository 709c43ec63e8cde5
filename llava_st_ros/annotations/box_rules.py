"""Boxes in files: which part of a stated box is the ground truth, and the corners to write."""

from __future__ import annotations

from llava_st_ros.annotations.change_notes import ChangeNotes
from llava_st_ros.records import Box

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

PIXEL_DIGITS = 3  # decimals of a corner that is written
MIN_SIDE = 0.002  # pixels: rounding to PIXEL_DIGITS must not remove a side


def box_in_image(
    corners: Corners,
    size: tuple[int, int],
    notes: ChangeNotes,
    place: str,
) -> Box | None:
    """Return the part of a box inside the image as fractions; None if there is none.

    Args:
        corners: x1, y1, x2, y2 in pixels, finite.
        size: Width and height of the image in pixels.
        notes: Counts what is changed.
        place: Where the box is in its file.
    """
    x1, y1, x2, y2 = corners
    width, height = size
    if x2 < x1 or y2 < y1:
        notes.add("boxes with swapped corners, put in order", place)
        x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if inside[2] - inside[0] < MIN_SIDE or inside[3] - inside[1] < MIN_SIDE:
        has_area = x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE
        kind = "outside the image" if has_area else "without area"
        notes.add(f"boxes {kind}, left out", place)
        return None
    if inside != (x1, y1, x2, y2):
        notes.add("boxes beyond the edge of the image, clipped", place)
    return Box.from_pixels(inside, width, height)


def corners_to_write(box: Box, size: tuple[int, int]) -> Corners:
    """Return x1, y1, x2, y2 in pixels of an image of a width and height, with ``PIXEL_DIGITS``.

    >>> corners_to_write(Box(0.1, 0.5, 1 / 3, 1.0), (100, 10))
    (10.0, 5.0, 33.333, 10.0)
    """
    x1, y1, x2, y2 = (round(value, PIXEL_DIGITS) for value in box.to_pixels(*size))
    return x1, y1, x2, y2
