"""Preprocessing: a camera image to the vision tower's input, in NumPy.

The published model resizes with Pillow's bicubic filter (antialiased, a = -0.5, rounded to uint8
after each of the two passes). OpenCV's INTER_CUBIC is a different filter, so Pillow's is
implemented here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llava_st_ros.errors import FrameError

CUBIC_A = -0.5
CUBIC_SUPPORT = 2.0
PRECISION = 22  # fractional bits of a fixed-point weight


def preprocess(image: np.ndarray, size: int) -> np.ndarray:
    """Resize and normalize an image: RGB uint8 [H, W, 3] -> float32 [3, size, size] in [-1, 1].

    The image is resized to a square without padding or cropping, then normalized with mean and
    standard deviation 0.5. Raises FrameError for any other shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise FrameError(
            f"the image has shape {image.shape} and dtype {image.dtype}; "
            "expected RGB uint8 [H, W, 3]"
        )
    return normalize(resize(image, size, size))


def normalize(image: np.ndarray) -> np.ndarray:
    """Normalize without resizing: RGB uint8 [H, W, 3] -> float32 [3, H, W] in [-1, 1]."""
    scaled = (image.astype(np.float32) * np.float32(1 / 255) - 0.5) / 0.5
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [H, W, C] -> uint8 [height, width, C] with Pillow's bicubic filter."""
    if image.shape[1] != width:
        image = _resample_rows(image.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if image.shape[0] != height:
        image = _resample_rows(image, height)
    return np.ascontiguousarray(image)


def _resample_rows(image: np.ndarray, size: int) -> np.ndarray:
    indices, weights = _taps(image.shape[0], size)
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    total = np.full((size, flat.shape[1]), 1 << (PRECISION - 1), dtype=np.int32)
    for index, weight in zip(indices, weights):
        total += weight[:, None] * flat[index]
    return (total >> PRECISION).clip(0, 255).astype(np.uint8).reshape(size, *image.shape[1:])


@lru_cache(maxsize=16)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and fixed-point weights [taps, target] of each target sample."""
    scale = source / target
    filter_scale = max(scale, 1.0)
    support = CUBIC_SUPPORT * filter_scale
    count = int(np.ceil(support)) * 2 + 1
    indices = np.zeros((count, target), dtype=np.intp)
    weights = np.zeros((count, target), dtype=np.int32)
    for row in range(target):
        center = (row + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), source)
        taps = _cubic((np.arange(first, last) - center + 0.5) / filter_scale)
        fixed = taps / taps.sum() * (1 << PRECISION)
        indices[: last - first, row] = np.arange(first, last)
        weights[: last - first, row] = np.trunc(fixed + np.copysign(0.5, fixed))
    return indices, weights


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * CUBIC_A
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
