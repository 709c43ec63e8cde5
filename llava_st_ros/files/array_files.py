"""NumPy's array files, .npy and .npz, without pickles."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.limits import ARCHIVE_BYTES

_HEADERS: dict[tuple[int, int], Callable[[BinaryIO], tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def map_array(path: Path, error: type[LlavaStError], remedy: str = "") -> np.ndarray:
    """Open an .npy file of numbers as a read-only memory map.

    Args:
        path: The file.
        error: The class of the error to raise.
        remedy: What the user can do about a file that cannot be read.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is truncated, is not one array (e.g. an
            .npz named .npy), or contains Python objects.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file)
            start = file.tell()
            size = file.seek(0, io.SEEK_END) - start
        _check_size(shape, dtype, size)
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(
            path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C"
        )
    except (OSError, _DamagedError, ValueError, OverflowError) as problem:
        raise error(
            f"cannot read {path} as an array of numpy.save: {reason_of(problem)}", remedy
        ) from problem


def read_arrays(path: Path, error: type[LlavaStError], remedy: str = "") -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, by name. Raises ``error`` like ``map_array``."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > ARCHIVE_BYTES:
                raise _DamagedError(
                    f"it has {total} bytes unpacked; at most {ARCHIVE_BYTES} are read"
                )
            return {
                member.filename.removesuffix(".npy"): _member(archive, member) for member in members
            }
    # zipfile raises NotImplementedError and RuntimeError for methods that it lacks and passwords,
    # and errors of zlib, lzma and struct for damaged members.
    except Exception as problem:
        raise error(
            f"cannot read {path} as arrays of numpy.savez: {reason_of(problem)}", remedy
        ) from problem


class _DamagedError(Exception):
    """What is wrong with the content of an array file."""


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as packed:
        content = io.BytesIO(packed.read(member.file_size))
    shape, fortran, dtype = _header(content)
    values = content.getbuffer()[content.tell() :]
    _check_size(shape, dtype, len(values))
    array = np.frombuffer(values, dtype, count=int(np.prod(shape, dtype=np.int64)))
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"it is of format {version}")
        shape, fortran, dtype = _HEADERS[version](file)
    # The header is a Python literal: its parser raises SyntaxError, RecursionError, TypeError, ...
    except Exception as problem:
        raise _DamagedError(f"its header is damaged ({reason_of(problem)})") from problem
    if dtype.hasobject or dtype.names or dtype.kind not in "biuf":
        raise _DamagedError(f"its values are of type {dtype}; expected numbers")
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise _DamagedError(f"its shape is {shape}")
    return shape, fortran, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, available: int) -> None:
    required = dtype.itemsize
    for size in shape:
        required *= size
    if required > available:
        raise _DamagedError(
            f"{available} bytes of values where the header says {required}: truncated"
        )
