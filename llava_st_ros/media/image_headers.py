"""Format, size and orientation of an encoded image, read from its header without decoding it.

Nothing here takes memory in proportion to the declared size, so that a small file that declares a
huge image is rejected first. Only formats whose size is known here are given to a decoder.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from llava_st_ros.errors import FrameError

ByteOrder = Literal["<", ">"]

OTHERS = "WebP, BMP, TIFF, GIF, PNM, JPEG 2000, AVIF or Sun raster"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Other chunks do not change the pixels; libpng prints a line about each that it dislikes.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_PNM_TOKENS = re.compile(rb"(?:#[^\n]*\n|\s)*([^\s#]+)")
_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274
_TILE_WIDTH_TAG, _TILE_HEIGHT_TAG = 322, 323


@dataclass(frozen=True)
class ImageHeader:
    """The format and the declared size of an encoded image, in pixels."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Read the format and the size of an encoded image.

    Raises:
        FrameError: The format is not known, or the header is truncated or invalid.
    """
    name, size = _identify(data)
    try:
        width, height = size(data)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise FrameError(
            f"the {name} header of {len(data)} bytes is truncated or corrupt"
        ) from error
    if width < 1 or height < 1:
        raise FrameError(f"the {name} image is empty ({width}x{height})")
    return ImageHeader(name, width, height)


def _identify(data: bytes) -> tuple[str, Callable[[bytes], tuple[int, int]]]:
    for signature, name, size in _SIGNATURES:
        if re.match(signature, data, re.DOTALL):
            return name, size
    raise FrameError(
        f"{len(data)} bytes are not a readable image; expected a complete JPEG or PNG, or {OTHERS}"
    )


def checked_png(data: bytes) -> bytes:
    """Return a PNG without the chunks that do not change its pixels.

    Raises:
        FrameError: The file is truncated, or a chunk's checksum is wrong.
    """
    kept, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while True:
        head = data[position : position + 8]
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        end = position + 12 + length
        if not kind or end > len(data):
            raise FrameError(f"the PNG is truncated at {len(data)} bytes")
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise FrameError(f"the PNG is corrupt: wrong checksum at byte {position}")
        if kind in _PNG_CHUNKS:
            kept.append(data[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end


def jpeg_orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG, 1 to 8; 1 if there is none."""
    for marker, segment in _jpeg_segments(data):
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            try:
                value = _tiff_tags(segment[6:]).get(_ORIENTATION_TAG, 1)
            except (struct.error, ValueError):
                return 1
            return value if 1 <= value <= 8 else 1
    return 1


def has_all_jpeg_scans(data: bytes) -> bool:
    """Whether a JPEG's scans contain every coefficient of every component in full precision.

    A progressive JPEG that lacks scans decodes without an error, only with less detail.
    """
    missing: set[tuple[int, int]] = set()
    for marker, segment in _jpeg_segments(data, beyond_scans=True):
        if _starts_frame(marker) and len(segment) > 5:
            components = [segment[6 + 3 * i] for i in range(segment[5]) if 6 + 3 * i < len(segment)]
            missing = {(component, k) for component in components for k in range(64)}
        elif marker == 0xDA and segment:
            count = segment[0]
            if len(segment) < 2 * count + 4:
                return False
            first, last, approximation = segment[2 * count + 1 : 2 * count + 4]
            if approximation & 0x0F == 0:
                components = [segment[1 + 2 * i] for i in range(count)]
                missing -= {(c, k) for c in components for k in range(first, last + 1)}
    return not missing


def _jpeg_segments(data: bytes, beyond_scans: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield each marker with its segment, up to the first scan, or up to the end of the image."""
    position = 2
    while position + 1 < len(data):
        if data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDA:
            if not beyond_scans:
                return
            position = _end_of_scan(data, position)


def _starts_frame(marker: int) -> bool:
    """Whether a JPEG's marker is a frame header, which has the image's size."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _end_of_scan(data: bytes, position: int) -> int:
    """Return the position of the first marker after a scan's entropy-coded data."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return len(data)
        if data[position + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            return position
        position += 1 if data[position + 1] == 0xFF else 2


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, segment in _jpeg_segments(data):
        if _starts_frame(marker):
            height, width = struct.unpack_from(">HH", segment, 1)
            return width, height
    raise ValueError("no frame header")


def _png_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from(">II", data, 16)


def _gif_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, 6)


def _sun_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from(">II", data, 4)


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        size = int.from_bytes(data[24:30], "little")
        width, height = size & 0xFFFFFF, size >> 24
        return (width + 1, height + 1) if len(data) >= 30 else (0, 0)
    if chunk == b"VP8L":
        (size,) = struct.unpack_from("<I", data, 21)
        return (size & 0x3FFF) + 1, (size >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("unknown chunk")


def _pnm_size(data: bytes) -> tuple[int, int]:
    words = [match[1] for match in _PNM_TOKENS.finditer(data[:512])][:16]
    if words[0] == b"P7":
        fields = dict(zip(words[1::2], words[2::2]))
        return int(fields[b"WIDTH"]), int(fields[b"HEIGHT"])
    return int(words[1]), int(words[2])


def _jpeg_2000_size(data: bytes) -> tuple[int, int]:
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    return right - left, bottom - top


def _avif_size(data: bytes) -> tuple[int, int]:
    sizes = [
        struct.unpack_from(">II", data, match.end() + 4) for match in re.finditer(b"ispe", data)
    ]
    return max(sizes, key=lambda size: size[0] * size[1])


def _tiff_size(data: bytes) -> tuple[int, int]:
    tags = _tiff_tags(data)
    # A strip or tile is decoded in one piece, so a tile larger than the image counts.
    return (
        max(tags[_WIDTH_TAG], tags.get(_TILE_WIDTH_TAG, 0)),
        max(tags[_HEIGHT_TAG], tags.get(_TILE_HEIGHT_TAG, 0)),
    )


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the integer tags with one value of the first directory."""
    order: ByteOrder = "<" if data[:2] == b"II" else ">"
    (magic,) = struct.unpack_from(order + "H", data, 2)
    big = magic == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    position, size = (start + 8, 20) if big else (start + 2, 12)
    kinds = {1: "B", 3: "H", 4: "I", 16: "Q"}
    tags = {}
    for entry in range(position, min(position + size * count, len(data) - size + 1), size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind in kinds:
            (tags[tag],) = struct.unpack_from(order + kinds[kind], data, entry + (12 if big else 8))
    return tags


_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG", _jpeg_size),
    (re.escape(_PNG_SIGNATURE), "PNG", _png_size),
    (rb"RIFF....WEBP", "WebP", _webp_size),
    (rb"BM", "BMP", _bmp_size),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", "TIFF", _tiff_size),
    (rb"GIF8[79]a", "GIF", _gif_size),
    (rb"P[1-7][\s#]", "PNM", _pnm_size),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", _jpeg_2000_size),
    (rb"....ftypavi[fs]", "AVIF", _avif_size),
    (rb"\x59\xa6\x6a\x95", "Sun raster", _sun_size),
)
