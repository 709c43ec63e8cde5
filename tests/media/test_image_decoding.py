"""Image decoding: every encoding, row padding, compressed formats, and rejected messages."""

from __future__ import annotations

import array
import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import ENCODINGS, decode_compressed, decode_raw

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
WIDE = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
MOSAIC = RNG.integers(0, 256, (6, 8), np.uint8)
SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)
JPEG = cv2.imencode(".jpg", SMOOTH[..., ::-1])[1].tobytes()
PNG = cv2.imencode(".png", SMOOTH[..., ::-1])[1].tobytes()
PROGRESSIVE = cv2.imencode(".jpg", SMOOTH[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[
    1
].tobytes()


def scaled(wide: np.ndarray) -> np.ndarray:
    """16 bits to 8 as cv_bridge does: 255 / 65535, rounded."""
    return np.rint(wide.astype(np.float64) * 255 / 65535).astype(np.uint8)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, pixels[..., :1]], 2)


def from_yuv(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """BT.601, limited range, in floating point: the definition, not OpenCV's arithmetic."""
    y, u, v = 1.164383 * (y.astype(float) - 16), u.astype(float) - 128, v.astype(float) - 128
    rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


Y, U2, V2 = RNG.integers(16, 236, (6, 8), np.uint8), *RNG.integers(60, 200, (2, 6, 4), np.uint8)
U4, V4 = U2[::2], V2[::2]
U1, V1 = RNG.integers(60, 200, (2, 6, 8), np.uint8)
YUYV = np.stack([Y[:, ::2], U2, Y[:, 1::2], V2], -1)
UYVY = np.stack([U2, Y[:, ::2], V2, Y[:, 1::2]], -1)
FROM_422 = from_yuv(Y, U2.repeat(2, 1), V2.repeat(2, 1))
FROM_420 = from_yuv(Y, U4.repeat(2, 0).repeat(2, 1), V4.repeat(2, 0).repeat(2, 1))


def planes(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate([Y.ravel(), *(part.ravel() for part in parts)])


# Encoding -> (data, expected RGB, tolerance in levels). Bayer is tested below.
CASES = {
    "rgb8": (RGB, RGB, 0),
    "bgr8": (RGB[..., ::-1], RGB, 0),
    "mono8": (MOSAIC, gray(MOSAIC), 0),
    "rgba8": (with_alpha(RGB), RGB, 0),
    "bgra8": (with_alpha(RGB[..., ::-1]), RGB, 0),
    "8UC1": (MOSAIC, gray(MOSAIC), 0),
    "8UC3": (RGB[..., ::-1], RGB, 0),
    "8UC4": (with_alpha(RGB[..., ::-1]), RGB, 0),
    "rgb16": (WIDE, scaled(WIDE), 0),
    "bgr16": (WIDE[..., ::-1], scaled(WIDE), 0),
    "mono16": (WIDE[..., 0], scaled(gray(WIDE[..., 0])), 0),
    "rgba16": (with_alpha(WIDE), scaled(WIDE), 0),
    "bgra16": (with_alpha(WIDE[..., ::-1]), scaled(WIDE), 0),
    "yuv422": (UYVY, FROM_422, 1),
    "uyvy": (UYVY, FROM_422, 1),
    "yuv422_yuy2": (YUYV, FROM_422, 1),
    "yuyv": (YUYV, FROM_422, 1),
    "nv12": (planes(np.stack([U4, V4], -1)), FROM_420, 1),
    "nv21": (planes(np.stack([V4, U4], -1)), FROM_420, 1),
    "nv24": (planes(np.stack([U1, V1], -1)), from_yuv(Y, U1, V1), 1),
}
PLANAR = ("nv12", "nv21", "nv24")
PACKED = sorted(set(CASES) - set(PLANAR))


def padded(values: np.ndarray, padding: int) -> tuple[np.ndarray, int]:
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(6, -1)
    result = np.full((6, rows.shape[1] + padding), 99, np.uint8)
    result[:, : rows.shape[1]] = rows
    return result, result.shape[1]


def test_every_encoding_has_a_case() -> None:
    assert {e for e in ENCODINGS if not e.startswith("bayer")} == set(CASES)


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)])
def test_packed_encodings_with_and_without_padding(encoding, padding, kind) -> None:
    values, expected, tolerance = CASES[encoding]
    data, step = padded(values, padding)
    image = decode_raw(encoding, 6, 8, step, kind(data.tobytes()))
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    assert image.dtype == np.uint8
    assert image.flags.owndata
    assert image.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgra16", "bayer_rggb16"])
def test_big_endian_data_is_the_same_image(encoding: str) -> None:
    values = CASES[encoding][0] if encoding in CASES else WIDE[..., 0]
    little, step = padded(values, 0)
    big, _ = padded(values.byteswap(), 0)
    np.testing.assert_array_equal(
        decode_raw(encoding, 6, 8, step, big.tobytes(), is_bigendian=True),
        decode_raw(encoding, 6, 8, step, little.tobytes()),
    )


@pytest.mark.parametrize("encoding", PLANAR)
@pytest.mark.parametrize("padding", [0, 8])
def test_planes_with_and_without_padding(encoding: str, padding: int) -> None:
    data, expected, tolerance = CASES[encoding]
    step = 8 + padding
    # A row of nv24's chroma is two rows of luma long, padding included.
    length = 8 if encoding != "nv24" else 16
    rows = [*data[:48].reshape(6, 8), *data[48:].reshape(-1, length)]
    stretched = [np.pad(row, (0, padding * len(row) // 8), constant_values=9) for row in rows]
    image = decode_raw(encoding, 6, 8, step, np.concatenate(stretched).tobytes())
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    assert image.flags.owndata
    assert image.flags.c_contiguous


@pytest.mark.parametrize("step", [12, 16])
def test_a_step_that_counts_both_planes_is_accepted_for_data_without_padding(step: int) -> None:
    data, expected, _ = CASES["nv12"]
    image = decode_raw("nv12", 6, 8, step, data.tobytes())
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaics_are_interpolated(pattern: str, bits: int) -> None:
    color = np.array([200, 120, 40], np.uint8)  # one color everywhere: interpolation is exact
    mosaic = np.empty((6, 8), np.uint8)
    for position, channel in enumerate(pattern):
        mosaic[position // 2 :: 2, position % 2 :: 2] = color["rgb".index(channel)]
    values = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    data, step = padded(values, 2)
    image = decode_raw(f"bayer_{pattern}{bits}", 6, 8, step, data.tobytes())
    np.testing.assert_array_equal(image, np.broadcast_to(color, (6, 8, 3)))


def test_array_of_a_ros_message_is_accepted() -> None:
    data = array.array("B", RGB.tobytes())
    np.testing.assert_array_equal(decode_raw("rgb8", 6, 8, 24, data), RGB)


def test_padding_of_the_last_row_is_optional() -> None:
    data, step = padded(RGB, 5)
    np.testing.assert_array_equal(decode_raw("rgb8", 6, 8, step, data.tobytes()[:-5]), RGB)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("16UC1", 6, 5, 10, bytes(60)), r"'16UC1' is a depth image \(REP 118\).*mono16"),
        (("32FC1", 6, 5, 20, bytes(120)), "'32FC1' is a depth image"),
        (("yuv9", 6, 5, 10, bytes(60)), "'yuv9' is not supported; expected one of rgb8"),
        (("rgb8", 6, 5, 14, bytes(90)), "step 14"),
        (("rgb8", 6, 5, 15, bytes(89)), "89 bytes"),
        (("mono16", 6, 5, 5, bytes(60)), "step 5"),
        (("nv12", 6, 8, 8, bytes(71)), "23 bytes are too few for the chroma of a 8x6 nv12"),
        (("nv12", 5, 8, 8, bytes(72)), "even"),
        (("yuyv", 6, 7, 14, bytes(84)), "even width"),
        (("bayer_rggb8", 2, 2, 2, bytes(4)), "at least 3x3"),
        (("rgb8", 0, 5, 15, b""), "5x0"),
        (("rgb8", 2**31, 2**31, 2**33, bytes(9)), "at most 64 million"),
        (("mono8", 1, 2**26, 2**26, bytes(9)), "67108864x1 pixels"),
    ],
)
def test_invalid_message_is_rejected(arguments, found: str) -> None:
    with pytest.raises(FrameError, match=found) as caught:
        decode_raw(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2"])
def test_compressed_images_are_decoded(suffix: str) -> None:
    data = cv2.imencode(suffix, SMOOTH[..., ::-1])[1]
    image = decode_compressed(data.tobytes(), suffix)
    assert image.shape == (48, 64, 3)
    is_lossy = suffix in (".jpg", ".webp", ".jp2")
    assert np.abs(image.astype(int) - SMOOTH).mean() <= (12 if is_lossy else 0)
    assert image.flags.owndata


def test_a_jpeg_has_the_pixels_that_opencv_gives_it() -> None:
    for data in (JPEG, PROGRESSIVE):
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decode_compressed(data), expected)


# What compressed_image_transport writes, and the pixels that it gives to OpenCV's encoder, which
# takes them for BGR.
FORMATS = [
    ("rgb8; jpeg compressed bgr8", ".jpg", SMOOTH[..., ::-1], SMOOTH),
    ("bgr8; jpeg compressed bgr8", ".jpg", SMOOTH[..., ::-1], SMOOTH),
    ("bgra8; jpeg compressed bgr8", ".jpg", SMOOTH[..., ::-1], SMOOTH),
    ("rgb8; jpeg compressed rgb8", ".jpg", SMOOTH, SMOOTH),
    ("bgr8; jpeg compressed rgb8", ".jpg", SMOOTH, SMOOTH),
    ("rgba8; png compressed rgb8", ".png", SMOOTH, SMOOTH),
    ("rgb8; png compressed rgb8", ".png", SMOOTH, SMOOTH),
    ("rgb8; png compressed bgr8", ".png", SMOOTH[..., ::-1], SMOOTH),
    ("rgb8; tiff compressed ", ".tiff", SMOOTH, SMOOTH),
    ("bgr8; tiff compressed ", ".tiff", SMOOTH[..., ::-1], SMOOTH),
    ("rgb8; jpeg compressed", ".jpg", SMOOTH[..., ::-1], SMOOTH),
    ("jpeg", ".jpg", SMOOTH[..., ::-1], SMOOTH),
    ("png", ".png", SMOOTH[..., ::-1], SMOOTH),
    ("anything", ".png", SMOOTH[..., ::-1], SMOOTH),
    ("rgb16; png compressed bgr16", ".png", WIDE[..., ::-1], scaled(WIDE)),
    ("rgb16; png compressed rgb16", ".png", WIDE, scaled(WIDE)),
    ("mono16; png compressed ", ".png", WIDE[..., 0], scaled(gray(WIDE[..., 0]))),
    ("mono16; jpeg compressed mono8", ".jpg", SMOOTH[..., 0], gray(SMOOTH[..., 0])),
    ("mono8; jpeg compressed ", ".jpg", SMOOTH[..., 0], gray(SMOOTH[..., 0])),
    ("mono8; png compressed ", ".png", MOSAIC, gray(MOSAIC)),
    ("8UC1; png compressed ", ".png", MOSAIC, gray(MOSAIC)),
    (
        "bayer_rggb8; png compressed ",
        ".png",
        MOSAIC,
        decode_raw("bayer_rggb8", 6, 8, 8, MOSAIC.tobytes()),
    ),
    (
        "bayer_grbg16; tiff compressed ",
        ".tiff",
        WIDE[..., 0],
        decode_raw("bayer_grbg16", 6, 8, 16, WIDE[..., 0].tobytes()),
    ),
]


@pytest.mark.parametrize(
    ("format", "suffix", "stored", "expected"), FORMATS, ids=[f[0] for f in FORMATS]
)
def test_formats_of_compressed_image_transport(format, suffix, stored, expected) -> None:
    data = cv2.imencode(suffix, np.ascontiguousarray(stored))[1].tobytes()
    image = decode_compressed(data, format)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() <= (6 if suffix == ".jpg" else 0)


@pytest.mark.parametrize(
    "format",
    [
        "16UC1; png compressed ",
        "16UC1; compressedDepth png",
        "32FC1; compressedDepth",
        "32FC1; tiff compressed ",
        "16UC1; compressedDepth rvl",
    ],
)
def test_depth_is_rejected_compressed_as_it_is_raw(format: str) -> None:
    data = cv2.imencode(".png", WIDE[..., 0])[1].tobytes()
    with pytest.raises(FrameError, match="is a depth image"):
        decode_compressed(data, format)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95, 0.99])
def test_truncated_image_is_rejected(suffix: str, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    with pytest.raises(FrameError, match="format 'x'"):
        decode_compressed(data[: int(len(data) * kept)], "x")


def test_error_of_an_unreadable_image_names_the_expected_formats() -> None:
    with pytest.raises(FrameError, match=r"not a readable image.*expected a complete JPEG or PNG"):
        decode_compressed(b"this is not an image")


MOTION_PHOTO = b"\0\0\0\x18ftypmp42" + bytes([1, 0xFF, 0xDA, 7]) + bytes(40)


@pytest.mark.parametrize("original", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d + bytes(64),
        lambda d: d + MOTION_PHOTO,
        lambda d: d + d[: len(d) // 2],
        lambda d: d + d[-300:-2],
        lambda d: d + d,
        lambda d: d[:-1],
        lambda d: d[:-2],
        lambda d: d[:-2] + bytes(3) + d[-2:],
    ],
    ids=["zeros", "motion", "next begun", "older rest", "two", "-1", "-2", "zeros in"],
)
def test_bytes_around_the_end_of_a_complete_jpeg_do_not_matter(original, change) -> None:
    np.testing.assert_array_equal(decode_compressed(change(original)), decode_compressed(original))


@pytest.mark.parametrize("original", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_without_a_part_of_its_scan_is_rejected(original) -> None:
    for cut in (*range(2, len(original) - 3, 23), len(original) - 3):
        with pytest.raises(FrameError):
            decode_compressed(original[:cut])


def test_a_cut_jpeg_is_rejected_whatever_follows() -> None:
    for cut in range(700, len(JPEG) - 400, 23):
        for tail in (b"\xff\xd9", JPEG[-300:], JPEG):
            with pytest.raises(FrameError):
                decode_compressed(JPEG[:cut] + tail)
    with pytest.raises(FrameError, match="truncated"):
        decode_compressed(JPEG[:-3] + b"\xff\xd9")


def test_a_progressive_jpeg_without_its_last_scans_is_rejected() -> None:
    scans = [i for i in range(len(PROGRESSIVE)) if PROGRESSIVE[i : i + 2] == b"\xff\xda"]
    tables = [i for i in range(len(PROGRESSIVE)) if PROGRESSIVE[i : i + 2] == b"\xff\xc4"]
    assert len(scans) > 3
    for cut in (*scans, *tables):
        with pytest.raises(FrameError):
            decode_compressed(PROGRESSIVE[:cut])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge(name: str, width: int, height: int) -> bytes:
    """A small file that declares a huge size."""
    header = {
        "jpeg": lambda: _with_jpeg_size(JPEG, width, height),
        "progressive": lambda: _with_jpeg_size(PROGRESSIVE, width, height),
        "png": lambda: (
            PNG[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + PNG[24:29]) + PNG[33:]
        ),
        "bmp": lambda: b"BM" + bytes(12) + struct.pack("<Iii", 40, width, -height) + bytes(40),
        "os2": lambda: b"BM" + bytes(12) + struct.pack("<IHH", 12, width, height) + bytes(40),
        "webp": lambda: (
            b"RIFF\0\1\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"
            + (width - 1).to_bytes(3, "little")
            + (height - 1).to_bytes(3, "little")
        ),
        "gif": lambda: b"GIF89a" + struct.pack("<HH", width, height) + bytes(50),
        "ppm": lambda: f"P6\n# a comment\n{width} {height}\n255\n".encode(),
        "pam": lambda: f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH 3\n".encode(),
        "tiff": lambda: (
            b"II*\0\x08\0\0\0\x02\0"
            + struct.pack("<HHIIHHIII", 256, 4, 1, width, 257, 4, 1, height, 0)
        ),
        "tile": lambda: (
            b"MM\0*\0\0\0\x08\0\x04"
            + struct.pack(">HHIHH", 256, 3, 1, 8, 0)
            + struct.pack(">HHIHH", 257, 3, 1, 8, 0)
            + struct.pack(">HHIIHHIII", 322, 4, 1, width, 323, 4, 1, height, 0)
        ),
        "big tiff": lambda: (
            b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
            + struct.pack("<HHQQHHQQQ", 256, 4, 1, width, 257, 4, 1, height, 0)
        ),
        "jp2": lambda: (
            b"\xff\x4f\xff\x51\0\x2f\0\0" + struct.pack(">IIII", width, height, 0, 0) + bytes(40)
        ),
        "avif": lambda: (
            b"\0\0\0\x1cftypavif"
            + bytes(30)
            + b"ispe\0\0\0\0"
            + struct.pack(">II", width, height)
            + bytes(20)
        ),
        "sun": lambda: struct.pack(">III", 0x59A66A95, width, height) + bytes(40),
    }
    return header[name]()


def _with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc2" if b"\xff\xc2" in data else b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


HUGE = ["jpeg", "progressive", "png", "bmp", "os2", "webp", "gif", "ppm", "pam", "tiff", "tile"]
HUGE += ["big tiff", "jp2", "avif", "sun"]


@pytest.mark.parametrize("name", HUGE)
def test_the_declared_size_is_bounded_before_decoding(name: str) -> None:
    with pytest.raises(FrameError, match="has 40000x30000 pixels; expected at most 64 million"):
        decode_compressed(huge(name, 40000, 30000))


def test_the_bound_can_be_set() -> None:
    for data in (JPEG, PNG):
        assert decode_compressed(data, max_pixels=64 * 48).shape == (48, 64, 3)
        with pytest.raises(FrameError, match=r"64x48 pixels; expected at most 0\.003071 million"):
            decode_compressed(data, max_pixels=64 * 48 - 1)
    with pytest.raises(FrameError, match="8x6 pixels"):
        decode_raw("rgb8", 6, 8, 24, RGB.tobytes(), max_pixels=47)


def test_headers_that_end_early_are_rejected_in_one_line() -> None:
    for name in HUGE:
        data = huge(name, 40, 30)
        for length in range(1, min(len(data), 60)):
            with pytest.raises(FrameError) as caught:
                decode_compressed(data[:length])
            assert "\n" not in str(caught.value)


def test_exif_orientation_is_applied_to_files_only() -> None:
    pillow = pytest.importorskip("PIL.Image")
    for orientation in range(1, 9):
        exif, buffer = pillow.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        pillow.fromarray(SMOOTH).save(buffer, "JPEG", exif=exif)
        data = buffer.getvalue()
        upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decode_compressed(data, upright=True), upright)
        assert decode_compressed(data).shape == SMOOTH.shape


def test_nothing_but_the_exception_is_printed() -> None:
    code = (
        "import sys, numpy as np, cv2\n"
        "from llava_st_ros.errors import FrameError\n"
        "from llava_st_ros.media.image_decoding import decode_compressed\n"
        "image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)\n"
        "for suffix in ('.jpg', '.png', '.webp', '.bmp', '.tiff', '.ppm'):\n"
        "    data = cv2.imencode(suffix, image)[1].tobytes()\n"
        "    damaged = bytearray(data)\n"
        "    damaged[len(data) // 2] ^= 255\n"
        "    for bad in (data[:-30], data[: len(data) // 2], bytes(damaged), data[:9]):\n"
        "        try:\n"
        "            decode_compressed(bad)\n"
        "        except FrameError:\n"
        "            pass\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
