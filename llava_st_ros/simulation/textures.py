"""Textures: procedural patterns, and photographs from scikit-image.

Only photographs that scikit-image documents as CC0 or public domain are used. Each is read from the
installed package on first use and cached at a small size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

PHOTOS = {
    "brick": "brick",  # CC0Textures, CC0
    "grass": "grass",  # CC0
    "gravel": "gravel",  # CC0Textures, CC0
    "coffee": "coffee",  # CC0 by the photographer
    "chelsea": "chelsea",  # CC0 by the photographer
    "camera": "camera",  # CC0 by the photographer
    "rocket": "rocket",  # SpaceX, public domain
    "astronaut": "astronaut",  # NASA, public domain
    "hubble": "hubble_deep_field",  # NASA, public domain
}
PHOTO_SIZE = 128
_SATURATION = 0.5  # factor for photographs


def surface(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a texture, float32 [size, size, 3] with a mean of about 0.5, nearly seamless."""
    if name in PHOTOS:
        return _tiling(photo(name), size)
    gray = _PATTERNS[name](rng, size)
    return np.repeat(gray[:, :, None], 3, axis=2).astype(np.float32)


@cache
def photo(name: str) -> np.ndarray:
    """Return a photograph, float32 [PHOTO_SIZE, PHOTO_SIZE, 3] with a mean of 0.5."""
    from skimage import data  # slow to import

    pixels = getattr(data, PHOTOS[name])()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side].astype(np.float32)
    small = cv2.resize(square, (PHOTO_SIZE, PHOTO_SIZE), interpolation=cv2.INTER_AREA) / 255
    gray = small.mean(axis=2, keepdims=True)
    small = gray + _SATURATION * (small - gray)  # less colorful than the objects
    small *= 0.5 / small.mean()
    small.setflags(write=False)
    return small


def object_texture(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the brightness pattern of an object's material, float32 [size, size] in [0, 1]."""
    pattern = _PATTERNS[name](rng, size)
    low, high = pattern.min(), pattern.max()
    return (pattern - low) / max(high - low, 1e-6)


def value_noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 4) -> np.ndarray:
    """Return value noise that tiles, float32 [size, size] with a mean of about 0.5.

    Args:
        rng: The random generator.
        size: Width and height in pixels.
        cells: Cells per side of the coarsest octave.
        octaves: Number of octaves; those with more cells than pixels are omitted.
    """
    total, weight = np.zeros((size, size), dtype=np.float32), 0.0
    for octave in range(octaves):
        count = cells * 2**octave
        if count > size:
            break
        grid = rng.random((count, count), dtype=np.float32)
        padded = np.pad(grid, 2, mode="wrap")
        step = size / count
        positions = (np.arange(size, dtype=np.float32) + 0.5) / step - 0.5 + 2
        x, y = np.meshgrid(positions, positions)
        total += 0.6**octave * cv2.remap(padded, x, y, cv2.INTER_CUBIC)
        weight += 0.6**octave
    return total / weight


def _flat(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.full((size, size), 0.5, dtype=np.float32)


def _checker(rng: np.random.Generator, size: int) -> np.ndarray:
    cell = size // (2 * int(rng.integers(1, 4)))
    index = np.arange(size) // cell
    return 0.35 + 0.3 * ((index[:, None] + index[None]) % 2).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = 2 * math.pi * np.arange(size) / size + rng.uniform(0, 2 * math.pi)
    rows, columns = rng.uniform(-0.25, 0.25, 2)
    return 0.5 + rows * np.sin(angle)[:, None] + columns * np.sin(angle)[None]


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return value_noise(rng, size, int(rng.integers(2, 6)))


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return planks: bands along x, bent by noise, with fine fibers."""
    bend = value_noise(rng, size, 2, 2)
    rings = int(rng.integers(3, 8)) * np.arange(size)[:, None] / size + 1.2 * bend
    fibers = rng.random((size, 1), dtype=np.float32)
    band = 0.5 + 0.5 * np.sin(2 * math.pi * rings)
    return 0.3 + 0.25 * band**2 + 0.15 * fibers + 0.1 * bend


def _marble(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return thin dark veins."""
    bend = value_noise(rng, size, 3, 5)
    diagonal = np.arange(size)[:, None] / size + np.arange(size)[None] / size
    vein = np.abs(np.sin(math.pi * (2 * diagonal + 5 * bend)))
    return 0.2 + 0.4 * vein**0.4


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    count = int(rng.integers(3, 7))
    wave = np.sin(2 * math.pi * count * np.arange(size) / size)
    band = np.clip(0.5 + 2 * wave, 0, 1).astype(np.float32)
    stripes = np.repeat(band[:, None], size, axis=1)
    return 0.35 + 0.3 * (stripes if rng.random() < 0.5 else stripes.T)


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    dots = value_noise(rng, size, size // 8, 2)
    return np.where(dots > 0.62, 0.25, 0.52).astype(np.float32)


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return cloth: threads over and under each other."""
    threads = int(rng.choice([8, 16]))
    position = threads * np.arange(size) / size
    over = (position[:, None].astype(int) + position[None].astype(int)) % 2 == 0
    bulge = np.abs(np.sin(math.pi * position))
    cloth = np.where(over, bulge[:, None], bulge[None])
    return 0.2 + 0.5 * cloth + 0.1 * rng.random((size, size), dtype=np.float32)


_PATTERNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "flat": _flat,
    "checker": _checker,
    "gradient": _gradient,
    "noise": _noise,
    "wood": _wood,
    "marble": _marble,
    "stripes": _stripes,
    "speckle": _speckle,
    "weave": _weave,
}


def _tiling(pixels: np.ndarray, size: int) -> np.ndarray:
    """Mirror the pixels to both sides, so that they tile without a seam, and resize them."""
    wide = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    mirrored = np.concatenate([wide, wide[::-1]], axis=0)
    return cv2.resize(mirrored, (size, size), interpolation=cv2.INTER_LINEAR)
