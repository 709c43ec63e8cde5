"""Decompression whose memory is bounded, and which returns what precedes a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import lz4.frame
import zstandard

from llava_st_ros.errors import DataError
from llava_st_ros.media.bags.storage import MAX_MESSAGE_BYTES, DamagedError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 12  # bytes of compressed input: zstd makes at most 32,768 times as many of them


def decompress(data: bytes, compression: str, *, is_cut: bool = False) -> bytes:
    """Decompress a chunk or message.

    Args:
        data: The compressed bytes.
        compression: "", "zstd" or "lz4".
        is_cut: Whether the end of ``data`` is missing. Then what precedes the cut is returned.

    Raises:
        DamagedError: The data are damaged, larger than MAX_MESSAGE_BYTES or compressed otherwise.
    """
    if compression == "":
        return data
    if compression == "zstd":
        return _zstd(data, is_cut)
    if compression == "lz4":
        return _lz4(data, is_cut)
    raise DamagedError(f"compression {compression!r} is not supported")


def decompress_message(data: bytes) -> bytes:
    """Decompress a message that was recorded with compression mode "message".

    Serialized messages start with byte 0, so that their content tells whether they are compressed,
    also in a file without metadata.yaml. Raises DamagedError.
    """
    return decompress(data, "zstd") if data.startswith(ZSTD_MAGIC) else data


def decompress_file(source: Path, target: Path, limit: int) -> str:
    """Decompress a file that was recorded with compression mode "file".

    Args:
        source: The compressed file.
        target: The file to write.
        limit: Its largest size in bytes.

    Returns:
        Why the file is incomplete; "" if it is complete. What precedes the fault is in ``target``.

    Raises:
        DataError: The decompressed file is larger than ``limit``.
        OSError: A file cannot be read or written.
    """
    frames, size = _Frames(), 0
    with source.open("rb") as compressed, target.open("wb") as file:
        try:
            for piece in frames.decompress(iter(lambda: compressed.read(_PIECE), b"")):
                size += file.write(piece)
                if size > limit:
                    raise no_space_error(source, target.parent, limit)
        except zstandard.ZstdError as error:
            return f"its zstd data are damaged: {error}"
    return "" if frames.is_complete else "its zstd data are truncated"


def no_space_error(source: Path, folder: Path, limit: int) -> DataError:
    """The error of a file of which a temporary copy would be too large."""
    return DataError(
        f"{source} is read from a temporary copy, which would be larger than the {limit >> 20} MiB"
        f" that {folder.parent} can spare",
        "set TMPDIR to a folder with more space",
    )


class _Frames:
    """Decompresses zstd frames that follow each other.

    Attributes:
        is_complete: Whether the input ended with the end of a frame.
    """

    is_complete = False

    def decompress(self, source: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of the frames, piece by piece. Raises zstandard.ZstdError."""
        frame = zstandard.ZstdDecompressor().decompressobj()
        for data in source:
            while data:
                self.is_complete = False
                yield frame.decompress(data)
                if not frame.eof:
                    break
                data = frame.unused_data
                frame = zstandard.ZstdDecompressor().decompressobj()
                self.is_complete = True


def _zstd(data: bytes, is_cut: bool) -> bytes:
    frames, pieces, size = _Frames(), [], 0
    source = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
    try:
        for piece in frames.decompress(source):
            pieces.append(piece)
            size += len(piece)
            _check_size(size)
    except zstandard.ZstdError as error:
        if not is_cut:
            raise DamagedError(f"zstd data are damaged: {error}") from error
    if not (frames.is_complete or is_cut):
        raise DamagedError("zstd data are truncated")
    return b"".join(pieces)


def _lz4(data: bytes, is_cut: bool) -> bytes:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        content: bytes = decompressor.decompress(data, max_length=MAX_MESSAGE_BYTES + 1)
    except RuntimeError as error:
        if not is_cut:
            raise DamagedError(f"lz4 data are damaged: {error}") from error
        return b""
    _check_size(len(content))
    if not (decompressor.eof or is_cut):
        raise DamagedError("lz4 data are truncated")
    return content


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise DamagedError(f"more than {MAX_MESSAGE_BYTES >> 20} MiB when decompressed")
