"""Camera messages: raw pixels with any geometry and encoding, and damaged or hostile pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fuzz.mutations import mutate_bytes, truncate
from fuzz.surface import Case, Surface, WrongAcceptanceError, WrongRejectionError
from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_decoding import ENCODINGS, PIXEL_BYTES, decode_compressed, decode_raw

HEIGHT, WIDTH = 24, 32
JPEG_TOLERANCE = 2  # bytes: the end marker, which some cameras leave out
NUMBERS = (0, 1, 2, 3, 23, 24, 31, 32, 96, 97, 2**16, 2**31 - 1, 2**32 - 1)


class Images(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng = np.random.default_rng(0)
        self._image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))
        self._files = {
            suffix: cv2.imencode(suffix, self._image)[1].tobytes()
            for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff")
        }
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        self._files["progressive"] = cv2.imencode(".jpg", self._image, progressive)[1].tobytes()

    def make(self, rng: np.random.Generator) -> Case:
        if rng.integers(2):
            return self._make_raw(rng)
        name = sorted(self._files)[int(rng.integers(len(self._files)))]
        data = self._files[name]
        kind = int(rng.integers(5))
        if kind == 0:
            data, step = truncate(rng, data)
            return Case(("cut", name, data), f"{name}, {step}")
        if kind == 1:
            size = tuple(int(v) for v in rng.choice((65535, 40000, 20000), 2))
            return Case(("huge", name, _with_size(name, data, size)), f"{name} of {size}")
        if kind == 2:
            tail = rng.integers(0, 256, int(rng.integers(1, 400)), np.uint8).tobytes()
            tail = tail if rng.integers(2) else self._files[".jpg"][: len(tail)]
            return Case(("tail", name, data + tail), f"{name}, {len(tail)} bytes behind it")
        data, step = mutate_bytes(rng, data)
        return Case(("changed", name, data), f"{name}, {step}")

    def _make_raw(self, rng: np.random.Generator) -> Case:
        encoding = str(rng.choice([*ENCODINGS, "", "rgb", "8UC2", "RGB8", "mono12", "rgb8; x"]))
        pixel = PIXEL_BYTES.get(encoding, 3)
        height, width = HEIGHT, WIDTH
        step = int(width * pixel)
        size = step * height
        changed = {"height": height, "width": width, "step": step, "size": size}
        for name in rng.choice(sorted(changed), int(rng.integers(0, 3)), replace=False):
            value = int(rng.choice(NUMBERS)) if rng.integers(2) else changed[str(name)]
            changed[str(name)] = max(0, value + int(rng.integers(-2, 3)))
        changed["size"] = min(changed["size"], 1 << 20)
        data = rng.integers(0, 256, changed["size"], np.uint8)
        values = (encoding, changed["height"], changed["width"], changed["step"], data)
        return Case(("raw", values, None), f"{encoding!r} {changed}")

    def check(self, data: Any) -> None:
        kind, name, content = data
        if kind == "raw":
            self._check_raw(*name)
            return
        original = self._files[name]
        if kind == "tail":  # a picture and something else behind it is that picture
            try:
                image = decode_compressed(content)
            except FrameError as error:
                raise WrongRejectionError(f"{name} with bytes behind it: {error}") from error
            if not np.array_equal(image, decode_compressed(original)):
                raise WrongAcceptanceError(f"{name} with bytes behind it is another picture")
            return
        image = decode_compressed(content)
        _check_image(image, image.shape[0], image.shape[1])
        if kind == "huge":
            raise WrongAcceptanceError(f"{name} with a huge size, decoded as {image.shape}")
        lost = len(original) - len(content)
        jpeg = name in (".jpg", "progressive")
        if kind == "cut" and lost > (JPEG_TOLERANCE if jpeg else 0):
            same = np.array_equal(image, decode_compressed(original))
            if not same:
                raise WrongAcceptanceError(f"{name} without its last {lost} bytes")

    def _check_raw(
        self, encoding: str, height: int, width: int, step: int, data: np.ndarray
    ) -> None:
        image = decode_raw(encoding, height, width, step, data)
        _check_image(image, height, width)
        if encoding not in PIXEL_BYTES:  # planes of luma and chroma
            too_few = data.size < height * width * (3 if encoding == "nv24" else 1.5)
        else:
            row = width * PIXEL_BYTES[encoding]
            too_few = step < row or data.size < step * (height - 1) + row
        if encoding not in ENCODINGS or too_few:
            raise WrongAcceptanceError("a raw image that its data cannot fill")


def _check_image(image: np.ndarray, height: int, width: int) -> None:
    if image.shape != (height, width, 3) or image.dtype != np.uint8 or 0 in image.shape:
        raise WrongAcceptanceError(f"an image of {image.shape} {image.dtype}")


def _with_size(name: str, data: bytes, size: tuple[int, int]) -> bytes:
    """The same file with another size in its header."""
    changed = bytearray(data)
    width, height = size
    if name in (".jpg", "progressive"):
        marker = data.index(b"\xff\xc2" if name == "progressive" else b"\xff\xc0")
        changed[marker + 5 : marker + 9] = struct.pack(">HH", height, width)
    elif name == ".png":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif name == ".bmp":
        changed[18:26] = struct.pack("<ii", width, height)
    elif name == ".webp":
        # VP8: 14 bits each behind the start code; VP8L: 14 bits each, from one less.
        if data[12:16] == b"VP8 ":
            changed[26:30] = struct.pack("<HH", min(width, 16383), min(height, 16383))
        else:
            bits = (min(width, 16384) - 1) | (min(height, 16384) - 1) << 14
            rest = struct.unpack("<I", data[21:25])[0] >> 28 << 28
            changed[21:25] = struct.pack("<I", bits | rest)
    else:
        _set_tiff_size(changed, width, height)
    return bytes(changed)


def _set_tiff_size(data: bytearray, width: int, height: int) -> None:
    (offset,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, offset)
    for entry in range(offset + 2, offset + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from("<HH", data, entry)
        if tag in (256, 257):
            value = width if tag == 256 else height
            struct.pack_into("<H" if kind == 3 else "<I", data, entry + 8, value)


SURFACE = Images
