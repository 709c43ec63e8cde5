"""Reading a complete file into memory, up to a limit, and checking file names found in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.limits import FILE_NAME_BYTES

BLOCK_BYTES = 1 << 20


def read_bytes(path: Path, error: type[LlavaStError], remedy: str = "", *, max_bytes: int) -> bytes:
    """Return a file's content.

    Args:
        path: The file.
        error: The class of the error to raise.
        remedy: What the user can do if the file cannot be read.
        max_bytes: The largest accepted size.

    Raises:
        LlavaStError: An ``error``: the file cannot be read or is too large.
    """
    try:
        with path.open("rb") as file:
            data = _read_up_to(file, max_bytes + 1)
    except (OSError, ValueError) as problem:  # ValueError: the path has a NUL or a lone surrogate
        raise error(f"cannot read {path}: {reason_of(problem)}", remedy) from problem
    if len(data) > max_bytes:
        raise error(f"{path} is larger than {max_bytes >> 20} MiB, the limit of its kind", remedy)
    return data


def _read_up_to(file: BinaryIO, limit: int) -> bytes:
    """Read at most ``limit`` bytes; ``file.read(limit)`` would allocate them all beforehand."""
    blocks, length = [], 0
    while length < limit and (block := file.read(min(BLOCK_BYTES, limit - length))):
        blocks.append(block)
        length += len(block)
    return b"".join(blocks)


def read_text(path: Path, error: type[LlavaStError], remedy: str = "", *, max_bytes: int) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is too large or is not UTF-8.
    """
    return decode(read_bytes(path, error, remedy, max_bytes=max_bytes), str(path), error, remedy)


def decode(data: bytes, name: str, error: type[LlavaStError], remedy: str = "") -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark. ``name`` is the file's, for the error."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as problem:
        raise error(
            f"{name} is not text in UTF-8: byte {problem.start} is invalid", remedy
        ) from problem


def is_file_name(value: Any) -> bool:
    """Whether a value found in a file is a name of a file in the same folder."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value or "\0" in value:
        return False
    try:
        return len(os.fsencode(value)) <= FILE_NAME_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
