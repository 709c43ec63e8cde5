"""Image decoding: every encoding, row padding, and rejected messages."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import ENCODINGS, decode_compressed, decode_raw

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def encoded(encoding: str, rgb: np.ndarray) -> np.ndarray:
    opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    return {
        "rgb8": lambda: rgb,
        "bgr8": lambda: rgb[..., ::-1],
        "mono8": lambda: rgb[..., :1],
        "rgba8": lambda: np.concatenate([rgb, opaque], 2),
        "bgra8": lambda: np.concatenate([rgb[..., ::-1], opaque], 2),
    }[encoding]()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)])
def test_every_encoding_with_and_without_padding(encoding, padding, kind) -> None:
    pixels = encoded(encoding, RGB).reshape(6, -1)
    step = pixels.shape[1] + padding
    padded = np.full((6, step), 99, np.uint8)
    padded[:, : pixels.shape[1]] = pixels
    image = decode_raw(encoding, 6, 5, step, kind(padded.tobytes()))
    expected = np.repeat(RGB[..., :1], 3, 2) if encoding == "mono8" else RGB
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8
    assert image.flags.owndata
    assert image.flags.c_contiguous


def test_array_of_a_ros_message_is_accepted() -> None:
    data = array.array("B", RGB.tobytes())
    np.testing.assert_array_equal(decode_raw("rgb8", 6, 5, 15, data), RGB)


def test_padding_of_the_last_row_is_optional() -> None:
    padded = np.zeros((6, 20), np.uint8)
    padded[:, :15] = RGB.reshape(6, 15)
    np.testing.assert_array_equal(decode_raw("rgb8", 6, 5, 20, padded.tobytes()[:-5]), RGB)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("16UC1", 6, 5, 10, bytes(60)), "16UC1"),
        (("rgb8", 6, 5, 14, bytes(90)), "step 14"),
        (("rgb8", 6, 5, 15, bytes(89)), "89 bytes"),
        (("rgb8", 0, 5, 15, b""), "5x0"),
        (("rgb8", 2**31, 2**31, 2**33, bytes(9)), "9 bytes"),
    ],
)
def test_invalid_message_is_rejected(arguments, found: str) -> None:
    with pytest.raises(FrameError, match=found) as caught:
        decode_raw(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_images_are_decoded(suffix: str) -> None:
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)
    _, data = cv2.imencode(suffix, smooth[..., ::-1])
    image = decode_compressed(data.tobytes(), suffix)
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - smooth).mean() < (0.01 if suffix == ".png" else 12)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_truncated_image_is_rejected(suffix: str, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    with pytest.raises(FrameError, match="format 'x'"):
        decode_compressed(data[: int(len(data) * kept)], "x")


def test_error_of_an_unreadable_image_names_the_expected_formats() -> None:
    with pytest.raises(FrameError, match=r"not a readable image.*expected a complete JPEG or PNG"):
        decode_compressed(b"this is not an image")


def test_bytes_after_the_end_of_a_jpeg_are_ignored() -> None:
    data = cv2.imencode(".jpg", cv2.resize(RGB, (64, 48)))[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(data + bytes(64)), decode_compressed(data))
