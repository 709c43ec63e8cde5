"""Decodes camera messages and image files to RGB: pure functions, independent of ROS.

The node and the bag reader share them, so an offline replay yields exactly the images that the
node receives. One table defines the encodings, for raw messages and for what is inside compressed
ones. Encodings are those of ``sensor_msgs/image_encodings``, and nv12. Conversions and the scaling
of 16 bits to 8 are cv_bridge's, where it has one; generic OpenCV types are in OpenCV's channel
order.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

import llava_st_ros.media.opencv_log  # noqa: F401
from llava_st_ros.errors import FrameError
from llava_st_ros.media.image_headers import (
    ImageHeader,
    checked_png,
    has_all_jpeg_scans,
    jpeg_orientation,
    read_header,
)
from llava_st_ros.media.jpeg_decoding import decode_jpeg

MAX_PIXELS = 64_000_000  # default bound of an image's size


@dataclass(frozen=True)
class Packed:
    """An encoding with one array of pixels.

    Attributes:
        dtype: Type of a channel.
        channels: Channels of a pixel; two for 4:2:2, in which pairs of pixels share chroma.
        conversion: OpenCV's conversion to RGB, None for none.
    """

    dtype: type[np.unsignedinteger]
    channels: int
    conversion: int | None

    @property
    def pixel_bytes(self) -> int:
        return self.channels * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class SemiPlanar:
    """An encoding with a plane of luma and a plane of interleaved chroma, directly after it.

    Attributes:
        conversion: OpenCV's conversion of the 4:2:0 form to RGB.
        subsampled: 4:2:0; otherwise 4:4:4.
    """

    conversion: int
    subsampled: bool


_U8, _U16 = np.uint8, np.uint16
# OpenCV names a Bayer pattern by its second row, from the second column on.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_PACKED = {
    "rgb8": Packed(_U8, 3, None),
    "bgr8": Packed(_U8, 3, cv2.COLOR_BGR2RGB),
    "mono8": Packed(_U8, 1, cv2.COLOR_GRAY2RGB),
    "rgba8": Packed(_U8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": Packed(_U8, 4, cv2.COLOR_BGRA2RGB),
    "8UC1": Packed(_U8, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": Packed(_U8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": Packed(_U8, 4, cv2.COLOR_BGRA2RGB),
    "rgb16": Packed(_U16, 3, None),
    "bgr16": Packed(_U16, 3, cv2.COLOR_BGR2RGB),
    "mono16": Packed(_U16, 1, cv2.COLOR_GRAY2RGB),
    "rgba16": Packed(_U16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": Packed(_U16, 4, cv2.COLOR_BGRA2RGB),
    "yuv422": Packed(_U8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Packed(_U8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Packed(_U8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": Packed(_U8, 2, cv2.COLOR_YUV2RGB_YUY2),
    **{f"bayer_{name}8": Packed(_U8, 1, conversion) for name, conversion in _BAYER.items()},
    **{f"bayer_{name}16": Packed(_U16, 1, conversion) for name, conversion in _BAYER.items()},
}
_SEMI_PLANAR = {
    "nv12": SemiPlanar(cv2.COLOR_YUV2RGB_NV12, True),
    "nv21": SemiPlanar(cv2.COLOR_YUV2RGB_NV21, True),
    "nv24": SemiPlanar(cv2.COLOR_YUV2RGB_NV12, False),
}
ENCODINGS = (*_PACKED, *_SEMI_PLANAR)
PIXEL_BYTES = {encoding: layout.pixel_bytes for encoding, layout in _PACKED.items()}
# REP 118: depth images. Their values are distances, not intensities of a known range.
_DEPTH_ENCODINGS = ("16UC1", "16SC1", "32FC1", "64FC1", "32SC1")
_SMALLEST_MOSAIC = 3  # pixels per side; OpenCV interpolates smaller ones to black


def decode_message(message: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a ``sensor_msgs`` Image or CompressedImage, received by rclpy or read from a bag.

    Args:
        message: The message; only a CompressedImage has a field ``format``.
        max_pixels: Bound of the image's size, checked before memory is taken.

    Returns:
        RGB uint8 [H, W, 3], which owns its memory.

    Raises:
        FrameError: As ``decode_raw`` and ``decode_compressed``.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data, message.format, max_pixels=max_pixels)
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        is_bigendian=bool(message.is_bigendian),
        max_pixels=max_pixels,
    )


def decode_raw(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: bytes | bytearray | np.ndarray,
    *,
    is_bigendian: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode the pixels of a ``sensor_msgs/Image``.

    16 bits are scaled by 255 / 65535 and rounded, as by cv_bridge. Generic 8UC1, 8UC3 and 8UC4 are
    gray, BGR and BGRA. 16UC1 and the floating-point types are rejected: they are depth (REP 118).

    Args:
        encoding: One of ENCODINGS.
        height: Rows of the image.
        width: Columns of the image.
        step: Bytes per row. Bytes beyond ``width`` pixels are padding, which the last row may lack.
            For nv12, nv21 and nv24, bytes per row of luma; a row of nv24's chroma has twice as
            many. Any step is accepted for these if the data have exactly the size without
            padding.
        data: The message's data.
        is_bigendian: Byte order of 16-bit encodings.
        max_pixels: Bound of ``height * width``.

    Returns:
        RGB uint8 [height, width, 3], which owns its memory.

    Raises:
        FrameError: The encoding is unsupported, the image is empty or too large, ``step`` is
            shorter than a row, or there is too little data.
    """
    _reject_depth(encoding, f"image encoding {encoding!r}")
    if encoding not in ENCODINGS:
        raise FrameError(
            f"image encoding {encoding!r} is not supported; expected one of {', '.join(ENCODINGS)}"
        )
    if height < 1 or width < 1:
        raise FrameError(f"the image is empty ({width}x{height})")
    _check_size(width, height, max_pixels)
    array = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.ravel()
    if array.dtype != np.uint8:
        raise FrameError(f"the image's data have type {array.dtype}; expected uint8")
    if encoding in _SEMI_PLANAR:
        return _from_planes(array, encoding, height, width, step)
    layout = _PACKED[encoding]
    rows = _rows(
        array, height, width * layout.pixel_bytes, step, f"a {width}x{height} {encoding} image"
    )
    pixels = rows.view(layout.dtype).reshape(height, width, layout.channels)
    if layout.dtype is np.uint16 and is_bigendian != (sys.byteorder == "big"):
        pixels = pixels.byteswap()
    return _to_rgb(pixels, encoding)


def decode_compressed(
    data: bytes | bytearray | np.ndarray,
    format: str = "",
    *,
    upright: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode the data of a ``sensor_msgs/CompressedImage`` or of an image file.

    The data identify their own format. Of the message's format, what compressed_image_transport
    writes is used ("rgb8; jpeg compressed bgr8"): the encoding of the source, and that of the
    pixels given to OpenCV's encoder, whose channels are swapped if it is RGB. 16-bit images are
    scaled as raw ones. A JPEG may be followed by other data and may lack its end marker, but not a
    part of its scan; damage that keeps a scan decodable cannot be detected.

    Args:
        data: The encoded image.
        format: The message's format.
        upright: Apply the orientation in the image's EXIF data, as for files. False for messages,
            in which pixels are those of the camera, as for image_transport and CameraInfo.
        max_pixels: Bound of the size that the image declares, checked before memory is taken.

    Returns:
        RGB uint8 [H, W, 3], which owns its memory.

    Raises:
        FrameError: The data are not a readable image, a truncated or corrupt one, too large, or a
            depth image.
    """
    raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    source, stored = _format_encodings(format)
    if "compresseddepth" in format.lower():
        raise FrameError(f"format {format!r} is a depth image; expected a color or gray image")
    _reject_depth(source, f"format {format!r}")
    try:
        if not raw:
            raise FrameError("the image has no data")
        header = read_header(raw)
        _check_size(header.width, header.height, max_pixels)
        if not stored and (source.startswith("bayer_") or header.format == "TIFF"):
            stored = source  # these are stored without a conversion
        if header.format == "JPEG":
            return _decode_jpeg(raw, stored, upright)
        return _decode_other(raw, header, stored, upright)
    except FrameError as error:
        named = f" (format {format!r})" if format else ""
        raise FrameError(f"{error.problem}{named}", error.remedy) from error


def complete_jpeg(
    data: bytes | bytearray | np.ndarray, format: str = "", *, max_pixels: int = MAX_PIXELS
) -> bytes | None:
    """Return the data of a ``sensor_msgs/CompressedImage`` if any program can show them.

    That is a JPEG with all its scans, which shows what ``decode_compressed`` returns.

    Args:
        data: The encoded image.
        format: The message's format.
        max_pixels: Bound of the size that the image declares.

    Returns:
        The data; None if they must be decoded, or are not readable.
    """
    raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    source, stored = _format_encodings(format)
    if not stored and source.startswith("bayer_"):
        stored = source  # as decode_compressed
    if stored.startswith(("rgb", "bayer_")) or "compresseddepth" in format.lower():
        return None
    if source in _DEPTH_ENCODINGS:
        return None
    try:
        header = read_header(raw)
    except FrameError:
        return None
    if header.format != "JPEG" or header.width * header.height > max_pixels:
        return None
    is_complete = raw.endswith(b"\xff\xd9") and has_all_jpeg_scans(raw)
    return raw if is_complete and jpeg_orientation(raw) == 1 else None


def _format_encodings(format: str) -> tuple[str, str]:
    """Return the encodings of the source and of the stored pixels in a message's format."""
    source, _, codec = format.partition(";")
    words = codec.split()
    return (source.strip(), words[2].lower()) if len(words) > 2 else (source.strip(), "")


def _reject_depth(encoding: str, what: str) -> None:
    if encoding in _DEPTH_ENCODINGS:
        raise FrameError(
            f"{what} is a depth image (REP 118); expected a color or gray image",
            "publish 16-bit intensities as mono16",
        )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FrameError(
            f"the image has {width}x{height} pixels; expected at most {max_pixels / 1e6:g} million"
        )


def _rows(array: np.ndarray, height: int, row: int, step: int, what: str) -> np.ndarray:
    """Return rows [height, row] of bytes without padding, contiguous."""
    if step < row:
        raise FrameError(f"step {step} is less than the {row} bytes of a row of {what}")
    needed = step * (height - 1) + row
    if array.size < needed:
        raise FrameError(
            f"{array.size} bytes are too few for {what} with step {step}; "
            f"expected at least {needed}"
        )
    rows = np.lib.stride_tricks.as_strided(array, (height, row), (step, 1), writeable=False)
    return np.ascontiguousarray(rows)


def _from_planes(
    array: np.ndarray, encoding: str, height: int, width: int, step: int
) -> np.ndarray:
    layout, what = _SEMI_PLANAR[encoding], f"a {width}x{height} {encoding} image"
    if layout.subsampled and (width % 2 or height % 2):
        raise FrameError(f"{what}; expected an even width and height")
    # Rows of chroma, each as long as ``lines`` rows of luma.
    chroma_rows, lines = (height // 2, 1) if layout.subsampled else (height, 2)
    if array.size == (height + chroma_rows * lines) * width and step >= width:
        step = width  # some drivers count the bytes of both planes in the step
    luma = _rows(array, height, width, step, what)
    chroma = _rows(
        array[step * height :], chroma_rows, width * lines, step * lines, f"the chroma of {what}"
    )
    if layout.subsampled:
        return cv2.cvtColor(np.concatenate([luma, chroma]), layout.conversion)
    # OpenCV converts no nv24, but it is a 4:2:0 image of twice the size.
    planes = np.concatenate([luma.repeat(2, 0).repeat(2, 1), chroma])
    return np.ascontiguousarray(cv2.cvtColor(planes, layout.conversion)[::2, ::2])


def _to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Convert pixels [H, W, channels] of a packed encoding."""
    layout = _PACKED[encoding]
    height, width = pixels.shape[:2]
    if layout.channels == 2 and width % 2:
        raise FrameError(f"a {width}x{height} {encoding} image; expected an even width")
    if encoding.startswith("bayer") and min(height, width) < _SMALLEST_MOSAIC:
        raise FrameError(
            f"a {width}x{height} {encoding} image; expected at least "
            f"{_SMALLEST_MOSAIC}x{_SMALLEST_MOSAIC} pixels"
        )
    converted = pixels if layout.conversion is None else cv2.cvtColor(pixels, layout.conversion)
    return _to_8_bits(converted) if converted.dtype == np.uint16 else _owned(converted)


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535)


def _owned(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.flags.owndata and pixels.flags.c_contiguous else pixels.copy()


def _decode_jpeg(raw: bytes, stored: str, upright: bool) -> np.ndarray:
    pixels = decode_jpeg(raw, upright=upright)
    if pixels.shape[2] == 1:
        return _to_rgb(pixels, stored if _fits(pixels, stored) else "mono8")
    return np.ascontiguousarray(pixels[..., ::-1]) if stored.startswith("rgb") else pixels


def _decode_other(raw: bytes, header: ImageHeader, stored: str, upright: bool) -> np.ndarray:
    if header.format == "PNG":
        raw = checked_png(raw)
    # Without a conversion to color the mosaic of a Bayer image stays as it is.
    flags = cv2.IMREAD_ANYDEPTH | (0 if stored.startswith("bayer") else cv2.IMREAD_COLOR)
    try:
        pixels = cv2.imdecode(
            np.frombuffer(raw, np.uint8),
            flags if upright else flags | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    except cv2.error:
        pixels = None
    if pixels is None:
        raise FrameError(
            f"{len(raw)} bytes are not a readable image, but a truncated or corrupt "
            f"{header.format}; expected a complete JPEG or PNG"
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"the {header.format} image has values of type {pixels.dtype}; expected 8 or 16 bits"
        )
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    default = "mono" if pixels.shape[2] == 1 else "bgr"
    default += "16" if pixels.dtype == np.uint16 else "8"
    return _to_rgb(pixels, stored if _fits(pixels, stored) else default)


def _fits(pixels: np.ndarray, encoding: str) -> bool:
    layout = _PACKED.get(encoding)
    return (
        layout is not None and layout.dtype == pixels.dtype and layout.channels == pixels.shape[2]
    )
