"""Carries boxes from one image to the next by the motion of the corners inside them.

Pyramidal Lucas-Kanade (Bouguet 2001) follows corners forward and back; a consensus of those that
return to where they started gives a similarity (shift, scale and turn), which moves the box. On
surfaces without corners Lucas-Kanade reports success for wrong points, so corners and consensus are
both needed. All of it is deterministic: the consensus tries every pair of a few points instead of
random ones, and depends on no state of a library.

Images are gray and small, so that the time is bounded whatever the camera's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from llava_st_ros.records import Box

MAX_SIDE = 320  # px; longer side of the small image
MAX_POINTS = 48  # per box
MIN_POINTS = 4  # that agree
MIN_SHARE = 0.4  # of the followed points' weight that agrees
MIN_EIGENVALUE = 1e-3  # of Lucas-Kanade; less is a flat surface or an edge
CORNER_QUALITY = 0.01  # of the best corner of the box
CORNER_DISTANCE = 3  # px
WINDOW = 21  # px; Lucas-Kanade
LEVELS = 3  # of the pyramid
RETURN_ERROR = 1.0  # px; between a point and itself after forward and back
AGREEMENT = 1.5  # px; between a point and the consensus
STEP_SCALE = 1.25  # largest change of size in one step
TOTAL_SCALE = 3.0  # largest change of size since the box of the model
MIN_SIDE = 2.0  # px of the small image
MIN_VISIBLE = 0.25  # of the box's area that is inside the image
SIGNIFICANT = 3.0  # standard errors; a smaller change of size is none, since errors add up
PAIRED = 16  # points whose pairs are tried
MARGIN = 3.0  # px around a box: corners of its outline belong to it
STILL = 3.0  # gray levels; a change below it is noise
CONTRAST = 4.0  # gray levels, standard deviation; less is a flat surface

Point = tuple[float, float]


def small_gray(image: np.ndarray) -> np.ndarray:
    """Reduce RGB uint8 [H, W, 3] to gray uint8 [h, w] with a longer side of at most MAX_SIDE."""
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale < 1.0:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


@dataclass(frozen=True)
class CarriedBox:
    """A box and the points that carry it.

    Attributes:
        center: Pixels of the small image; may be outside.
        size: Width and height, pixels of the small image.
        first_size: The size in the model's box.
        points: float32 [N, 2], pixels of the small image: those that agreed in the last step.
        support: The smallest share of followed points that agreed in a step, in [0, 1].
    """

    center: Point
    size: Point
    first_size: Point
    points: np.ndarray
    support: float = 1.0

    @classmethod
    def start(cls, box: Box, shape: tuple[int, ...]) -> CarriedBox:
        """Return a box of the model on a small image of a shape (height, width)."""
        x1, y1, x2, y2 = box.to_pixels(shape[1], shape[0])
        size = x2 - x1, y2 - y1
        center = (x1 + x2) / 2, (y1 + y2) / 2
        return cls(center, size, size, np.empty((0, 2), np.float32))

    def corners(self) -> tuple[float, float, float, float]:
        (x, y), (width, height) = self.center, self.size
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def box(self, shape: tuple[int, ...]) -> Box:
        """Return the part of the box inside a small image of a shape, in [0, 1]."""
        return Box.from_pixels(self.corners(), shape[1], shape[0]).clipped()


def carry(
    before: np.ndarray, after: np.ndarray, boxes: Sequence[CarriedBox]
) -> list[CarriedBox | None]:
    """Carry boxes from one small image to another.

    Args:
        before: uint8 [h, w], the image that the boxes are on.
        after: uint8 [h, w].
        boxes: The boxes.

    Returns:
        Each box on ``after``; None if it is lost: too few points agree on a motion, the motion is
        not plausible, or too little of the box is inside the image.

    Raises:
        ValueError: The images differ in shape.
    """
    if before.shape != after.shape:
        raise ValueError(f"images of {before.shape} and {after.shape}; expected one shape")
    points = [_points(before, box) for box in boxes]
    followed, returned = _follow(before, after, points)
    results: list[CarriedBox | None] = []
    start = 0
    for box, own in zip(boxes, points):
        part = slice(start, start + len(own))
        start += len(own)
        moved = _moved(box, own, followed[part], returned[part], after.shape)
        if moved is None and _is_still(before, after, box):
            moved = replace(box, points=np.empty((0, 2), np.float32))
        results.append(moved)
    return results


def _points(image: np.ndarray, box: CarriedBox) -> np.ndarray:
    """Return the points to follow: those of the last step, or new corners if they are few."""
    if len(box.points) >= MAX_POINTS // 2:
        return box.points
    region = _region(image, box)
    if region is None:
        return box.points
    x, y, patch = region
    corners = cv2.goodFeaturesToTrack(
        patch, MAX_POINTS, CORNER_QUALITY, CORNER_DISTANCE, blockSize=3
    )
    if corners is None:
        return box.points
    found = corners.reshape(-1, 2).astype(np.float32) + np.array((x, y), np.float32)
    if len(box.points):
        distances = np.linalg.norm(found[:, None] - box.points[None], axis=2).min(axis=1)
        found = found[distances >= CORNER_DISTANCE]
    return np.concatenate([box.points, found])[:MAX_POINTS]


def _region(image: np.ndarray, box: CarriedBox) -> tuple[int, int, np.ndarray] | None:
    """Return the part of an image in a box with a margin, and its top left corner."""
    x1, y1, x2, y2 = box.corners()
    left, top = max(0, math.floor(x1 - MARGIN)), max(0, math.floor(y1 - MARGIN))
    right, bottom = math.ceil(x2 + MARGIN), math.ceil(y2 + MARGIN)
    patch = image[top : max(top, bottom), left : max(left, right)]
    return (left, top, patch) if min(patch.shape) >= 3 else None


def _follow(
    before: np.ndarray, after: np.ndarray, points: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of all boxes on ``after``, and which of them return to their start."""
    start = np.concatenate([np.empty((0, 2), np.float32), *points])
    if not len(start):
        return start, np.zeros(0, bool)
    end, status = _lucas_kanade(before, after, start)
    back, back_status = _lucas_kanade(after, before, end)
    error = np.linalg.norm(back - start, axis=1)
    height, width = after.shape
    with np.errstate(invalid="ignore"):
        is_good = status & back_status & (error <= RETURN_ERROR)
        is_good &= (end >= 0).all(axis=1) & (end[:, 0] < width) & (end[:, 1] < height)
    return end, is_good & np.isfinite(end).all(axis=1)


def _lucas_kanade(
    before: np.ndarray, after: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points on ``after``, float32 [N, 2], and bool [N]: which of them were found."""
    end, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points[:, None],
        np.empty_like(points[:, None]),
        winSize=(WINDOW, WINDOW),
        maxLevel=LEVELS,
        minEigThreshold=MIN_EIGENVALUE,
    )
    return np.asarray(end).reshape(-1, 2), np.asarray(status).ravel() == 1


def _moved(
    box: CarriedBox,
    start: np.ndarray,
    end: np.ndarray,
    is_good: np.ndarray,
    shape: tuple[int, ...],
) -> CarriedBox | None:
    start, end = start[is_good], end[is_good]
    found = consensus(start, end, _weights(box, start))
    if found is None:
        return None
    scale, shift, agrees, share = found
    ratio = abs(scale)
    center = scale * complex(*box.center) + shift
    size = box.size[0] * ratio, box.size[1] * ratio
    total = max(size) / max(*box.first_size, 1e-9)
    if not (1 / STEP_SCALE <= ratio <= STEP_SCALE and 1 / TOTAL_SCALE <= total <= TOTAL_SCALE):
        return None
    moved = CarriedBox(
        (center.real, center.imag),
        size,
        box.first_size,
        end[agrees],
        min(box.support, share * float(is_good.mean())),
    )
    return moved if _is_visible(moved, shape) else None


def _is_visible(box: CarriedBox, shape: tuple[int, ...]) -> bool:
    """Whether a box is large enough, and enough of it is inside the image."""
    x1, y1, x2, y2 = box.corners()
    width = min(x2, shape[1]) - max(x1, 0.0)
    height = min(y2, shape[0]) - max(y1, 0.0)
    visible = max(0.0, width) * max(0.0, height)
    return min(box.size) >= MIN_SIDE and visible >= MIN_VISIBLE * box.size[0] * box.size[1]


def _weights(box: CarriedBox, points: np.ndarray) -> np.ndarray:
    """Return float64 [N]: less near the edges of a box, where the background is."""
    half = np.maximum(np.array(box.size) / 2, 1.0)
    offsets = np.abs((points - np.array(box.center)) / half).max(axis=1, initial=0.0)
    return 1.0 - 0.7 * np.clip(offsets, 0.0, 1.0) ** 2


def consensus(
    start: np.ndarray, end: np.ndarray, weights: np.ndarray
) -> tuple[complex, complex, np.ndarray, float] | None:
    """Return the similarity on which most of the points agree, by weight.

    As complex numbers: end = scale * start + shift, where the scale's angle is the turn. Tried are
    the shift of each point and the similarity of each pair of PAIRED points; the best one is fitted
    to the points that agree with it (AGREEMENT) by least squares.

    Args:
        start: float [N, 2].
        end: float [N, 2], finite.
        weights: float [N], positive.

    Returns:
        Scale, shift, bool [N] of the points that agree, and their share of the weight. None if
        fewer than MIN_POINTS distinct points or less than MIN_SHARE of the weight agree.
    """
    p = start[:, 0].astype(np.float64) + 1j * start[:, 1]
    q = end[:, 0].astype(np.float64) + 1j * end[:, 1]
    if len(p) < MIN_POINTS:
        return None
    step = max(1, len(p) // PAIRED)
    first, second = np.triu_indices(len(p[::step]), 1)
    first, second = first * step, second * step
    apart = np.abs(p[second] - p[first]) >= 2 * CORNER_DISTANCE
    first, second = first[apart], second[apart]
    scales = (q[second] - q[first]) / (p[second] - p[first])
    is_plausible = (np.abs(scales) <= STEP_SCALE) & (np.abs(scales) >= 1 / STEP_SCALE)
    scales, first = scales[is_plausible], first[is_plausible]
    scales = np.concatenate([np.ones(len(p)), scales])
    shifts = np.concatenate([q - p, q[first] - scales[len(p) :] * p[first]])
    errors = np.abs(scales[:, None] * p + shifts[:, None] - q)
    scores = (np.maximum(0.0, 1.0 - errors / AGREEMENT) * weights).sum(axis=1)
    agrees = errors[int(np.argmax(scores))] <= AGREEMENT
    share = float(weights[agrees].sum() / weights.sum())
    if len(np.unique(np.round(start[agrees]), axis=0)) < MIN_POINTS or share < MIN_SHARE:
        return None
    scale, shift = _fit(p[agrees], q[agrees], weights[agrees])
    return (scale, shift, agrees, share) if np.isfinite([scale, shift]).all() else None


def _fit(p: np.ndarray, q: np.ndarray, weights: np.ndarray) -> tuple[complex, complex]:
    """Return the similarity from p to q with the least weighted squares.

    Its size is 1 unless the errors leave no doubt that it differs.
    """
    total = weights.sum()
    p_mean, q_mean = (weights * p).sum() / total, (weights * q).sum() / total
    p, q = p - p_mean, q - q_mean
    spread = (weights * np.abs(p) ** 2).sum()
    scale = complex((weights * q * p.conj()).sum() / spread)
    variance = (weights * np.abs(scale * p - q) ** 2).sum() / spread / len(p)
    if abs(abs(scale) - 1.0) < SIGNIFICANT * math.sqrt(variance):
        scale /= abs(scale)
    return scale, complex(q_mean - scale * p_mean)


def _is_still(before: np.ndarray, after: np.ndarray, box: CarriedBox) -> bool:
    """Whether nothing has changed inside a box that is no flat surface."""
    old, new = _region(before, box), _region(after, box)
    if old is None or new is None or not _is_visible(box, after.shape):
        return False
    if float(old[2].std()) < CONTRAST:
        return False
    change = cv2.absdiff(old[2], new[2])
    return float(cv2.blur(change, (3, 3)).max()) <= STILL
