"""The package's CUDA kernels by their C names: libllava_st_kernels.so (native/kernels/library.h).

Pointers, strides and streams are plain numbers, so that whatever owns the memory can call them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from llava_st_ros.errors import EngineError

VARIABLE = "LLAVA_ST_KERNELS"  # of the environment: the library to take
ABI_VERSION = 1
SCALARS = {"float32": 0, "float16": 1, "bfloat16": 2}

_NAME = "libllava_st_kernels.so"
_REBUILD = "build the package again on this machine, or name another library in " + VARIABLE
_ENQUEUED, _REFUSED = 0, 1
_POINTER = ctypes.c_void_p
_SIZES = ctypes.POINTER(ctypes.c_int64)


def find_kernels() -> Path | None:
    """The library that LLAVA_ST_KERNELS names, else the one installed with the package, else None.

    Raises EngineError where the variable names no file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise EngineError(
                f"{VARIABLE}={named}: no such file; expected the path of {_NAME}",
                "correct the variable, or unset it",
            )
        return Path(named)
    # <prefix>/lib/pythonX.Y/site-packages/llava_st_ros; unresolved, as colcon may link to sources.
    for prefix in Path(__file__).absolute().parents:
        library = prefix / "lib" / "llava_st_ros" / _NAME
        if library.is_file():
            return library
    return None


class KernelLibrary:
    """A loaded library, whose functions may be called from several threads.

    They enqueue on ``stream``, a cudaStream_t of the current device, and return: "", or in a line
    why the kernel does not take these sizes, and nothing was enqueued. Pointers are of the device,
    all of one type of SCALARS; strides are in elements. Raises EngineError for a file that is not
    this library in this version; the functions raise it where CUDA refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path.absolute()))
            version = library.llava_st_abi_version()
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"{path}: not loaded: {error}; expected {_NAME} of this package", _REBUILD
            ) from error
        if version != ABI_VERSION:
            raise EngineError(
                f"{path}: kernels of ABI version {version}; expected version {ABI_VERSION}",
                _REBUILD,
            )
        self._error = library.llava_st_error
        self._error.argtypes, self._error.restype = (), ctypes.c_char_p
        self._region_attention = library.llava_st_region_attention
        self._region_attention.argtypes = (
            *(_SIZES, ctypes.c_float, ctypes.c_int),
            *(_POINTER, _SIZES) * 3,
            *(_POINTER, _POINTER),
        )
        self._late_gelu = library.llava_st_late_gelu
        self._late_gelu.argtypes = (
            *(_SIZES, ctypes.c_int),
            *(ctypes.POINTER(_POINTER), _POINTER, _POINTER, _POINTER, _POINTER, _POINTER),
        )

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
        """See native/kernels/region_attention.h: ``sizes`` are frames, height, width, heads, wide,
        spatial_region, temporal_region; ``query_strides`` region, head; the grids' strides frame,
        row, token."""
        return self._outcome(
            self._region_attention(
                *(_numbers(sizes), epsilon, scalar),
                *(query, _numbers(query_strides)),
                *(key, _numbers(key_strides), value, _numbers(value_strides)),
                *(output, stream),
            )
        )

    def late_gelu(
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
        """See native/kernels/late_gelu.h: ``sizes`` are frames, rows, wide, table_rows; ``addend``
        0 where there is none."""
        pointers = (_POINTER * len(terms))(*terms)
        return self._outcome(
            self._late_gelu(_numbers(sizes), scalar, pointers, table, times, addend, output, stream)
        )

    def _outcome(self, status: int) -> str:
        if status == _ENQUEUED:
            return ""
        reason: str = self._error().decode()
        if status == _REFUSED:
            return reason
        raise EngineError(
            f"{self.path}: CUDA: {reason}; expected kernels built for this GPU and driver", _REBUILD
        )


def _numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
