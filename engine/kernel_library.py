"""The package's CUDA kernels by their C names: libllava_st_kernels.so (native/kernels/library.h).

Pointers, strides and streams are plain integers, so that any owner of device memory can call them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from llava_st_ros.errors import EngineError

VARIABLE = "LLAVA_ST_KERNELS"  # environment variable: the path of the library to load
ABI_VERSION = 2
SCALARS = {"float32": 0, "float16": 1, "bfloat16": 2}  # the library's number of each dtype

NAME = "libllava_st_kernels.so"
_REBUILD = f"build the package again on this machine, or name another library in {VARIABLE}"
_INSTALL = f"install what it names as missing, or {_REBUILD}"
_ENQUEUED, _REJECTED = 0, 1
_POINTER = ctypes.c_void_p
_INT64S = ctypes.POINTER(ctypes.c_int64)


def find_kernels() -> Path | None:
    """Find the kernel library: the one that LLAVA_ST_KERNELS names, else the installed one.

    Returns None when neither exists. Raises EngineError when the variable names no file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise EngineError(
                f"{VARIABLE}={named}: no such file", f"set it to the path of {NAME}, or unset it"
            )
        return Path(named)
    # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros; unresolved, as colcon may link to sources.
    for prefix in Path(__file__).absolute().parents:
        library = prefix / "lib" / "llava_st_ros" / NAME
        if library.is_file():
            return library
    return None


class KernelLibrary:
    """A loaded kernel library; thread-safe.

    Each function enqueues its kernel on ``stream``, a cudaStream_t of the current device, and
    returns without waiting. It returns "" on success, or a one-line reason why the kernel does not
    support the sizes, in which case nothing was enqueued. Pointers are device pointers, all of one
    dtype of SCALARS; strides are in elements.

    Raises:
        EngineError: The file cannot be loaded or is not this version's library. The functions raise
            it when a CUDA call fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            # The file itself may be missing or no library, or a library that it links to.
            reason = str(error).removeprefix(f"{path.absolute()}: ")
            raise EngineError(f"{path} cannot be loaded: {reason}", _INSTALL) from error
        try:
            version = library.llava_st_abi_version()
        except AttributeError as error:
            raise EngineError(f"{path} is not {NAME}: {error}", _REBUILD) from error
        if version != ABI_VERSION:
            raise EngineError(
                f"{path} has kernels of ABI version {version}; expected version {ABI_VERSION}",
                _REBUILD,
            )
        self._error = library.llava_st_error
        self._error.argtypes, self._error.restype = (), ctypes.c_char_p
        self._region_attention = library.llava_st_region_attention
        self._region_attention.argtypes = [
            _INT64S,
            ctypes.c_float,
            ctypes.c_int,
            _POINTER,
            _INT64S,
            _POINTER,
            _INT64S,
            _POINTER,
            _INT64S,
            _POINTER,
            _POINTER,
        ]
        self._gather_add_gelu = library.llava_st_gather_add_gelu
        self._gather_add_gelu.argtypes = [
            _INT64S,
            ctypes.c_int,
            ctypes.POINTER(_POINTER),
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
            _POINTER,
        ]

    def region_attention(
        self,
        sizes: Sequence[int],
        epsilon: float,
        scalar: int,
        query: int,
        query_strides: Sequence[int],
        key: int,
        key_strides: Sequence[int],
        value: int,
        value_strides: Sequence[int],
        output: int,
        stream: int,
    ) -> str:
        """See native/kernels/region_attention.h.

        Args:
            sizes: frames, height, width, heads, embed_dim, spatial_region, temporal_region.
            epsilon: Added to the variance.
            scalar: The dtype, a value of SCALARS.
            query: Pointer to the queries.
            query_strides: region, head.
            key: Pointer to the keys.
            key_strides: frame, row, token.
            value: Pointer to the values.
            value_strides: frame, row, token.
            output: Pointer to the contiguous output.
            stream: The CUDA stream.
        """
        return self.check_status(
            self._region_attention(
                _int64s(sizes),
                epsilon,
                scalar,
                query,
                _int64s(query_strides),
                key,
                _int64s(key_strides),
                value,
                _int64s(value_strides),
                output,
                stream,
            )
        )

    def gather_add_gelu(
        self,
        sizes: Sequence[int],
        scalar: int,
        terms: Sequence[int],
        table: int,
        times: int,
        addend: int,
        output: int,
        stream: int,
    ) -> str:
        """See native/kernels/gather_add_gelu.h.

        Args:
            sizes: frames, rows, columns, table_rows.
            scalar: The dtype, a value of SCALARS.
            terms: A pointer per frame.
            table: Pointer to the table.
            times: Pointer to each frame's row of the table, int64.
            addend: Pointer to the addend; 0 for none.
            output: Pointer to the contiguous output.
            stream: The CUDA stream.
        """
        pointers = (_POINTER * len(terms))(*terms)
        return self.check_status(
            self._gather_add_gelu(
                _int64s(sizes), scalar, pointers, table, times, addend, output, stream
            )
        )

    def check_status(self, status: int) -> str:
        """Translate a status into the functions' result. Raises EngineError for a CUDA error."""
        if status == _ENQUEUED:
            return ""
        reason: str = self._error().decode()
        if status == _REJECTED:
            return reason
        raise EngineError(
            f"{self.path}: CUDA: {reason}",
            f"use kernels built for this GPU and driver: {_REBUILD}",
        )


def _int64s(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
