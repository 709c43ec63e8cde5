"""Preprocessing: the resize equals Pillow's bicubic filter exactly."""

from __future__ import annotations

import numpy as np
import pytest

from llava_st_ros.backends.preprocessing import normalize, preprocess, resize
from llava_st_ros.errors import FrameError

IMAGE = (np.arange(7 * 9 * 3).reshape(7, 9, 3) * 37 % 256).astype(np.uint8)
# Pillow 13: Image.fromarray(IMAGE).resize((4, 4), Image.BICUBIC)
SMALLER = [
    [[122, 84, 100], [137, 135, 100], [99, 135, 141], [117, 102, 144]],
    [[138, 159, 128], [88, 129, 160], [160, 96, 127], [137, 156, 93]],
    [[108, 126, 170], [132, 102, 120], [136, 139, 109], [106, 129, 134]],
    [[161, 146, 123], [136, 164, 80], [84, 135, 166], [151, 84, 125]],
]
# Image.fromarray(IMAGE).resize((12, 12), Image.BICUBIC): rows 0, 5 and 11 of the green channel
LARGER = {
    0: [33, 120, 95, 0, 98, 205, 180, 85, 190, 95, 79, 165],
    5: [241, 129, 114, 183, 54, 125, 103, 0, 105, 218, 194, 81],
    11: [134, 235, 220, 109, 215, 120, 107, 176, 47, 116, 104, 0],
}


def test_downscaling_equals_pillow() -> None:
    assert resize(IMAGE, 4, 4).tolist() == SMALLER


def test_upscaling_equals_pillow() -> None:
    resized = resize(IMAGE, 12, 12)
    for row, green in LARGER.items():
        assert resized[row, :, 1].tolist() == green


def test_height_and_width_are_not_swapped() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    resized = resize(image, 10, 6)
    assert resized.shape == (10, 6, 3)
    assert (resized[:, :2] < 10).all()
    assert (resized[:, 4:] > 245).all()


def test_pixels_are_normalized_and_channel_first() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0], image[..., 2] = 255, 128
    pixels = preprocess(image, 8)
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 8, 8)
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[:, 3, 4], [1.0, -1.0, 128 / 127.5 - 1], atol=1e-6)
    assert np.array_equal(pixels, normalize(image))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_invalid_images_are_rejected(image: np.ndarray) -> None:
    with pytest.raises(FrameError):
        preprocess(image, 8)
