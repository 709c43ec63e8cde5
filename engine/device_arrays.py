"""Contiguous arrays on the host or on a GPU, which runtimes read and write in place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """Allocates arrays. ``kind`` is "cpu" or "cuda", ``index`` which GPU."""

    @property
    def kind(self) -> str: ...

    @property
    def index(self) -> int: ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
        """Allocate an uninitialized array."""
        ...

    def put(self, values: np.ndarray) -> DeviceArray:
        """Copy a NumPy array to the device. On the host it is wrapped without a copy."""
        ...

    def grow(self, array: DeviceArray, rows: int, axis: int) -> DeviceArray:
        """Copy an array into one with ``rows`` along ``axis``; new rows are uninitialized."""
        ...


class GpuDevice(Device, Protocol):
    """A device whose memory the host cannot read."""

    def to_host(self, array: GpuArray) -> np.ndarray:
        """Copy an array to the host."""
        ...


class DeviceArray(Protocol):
    """A contiguous array in a device's memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def address(self) -> int: ...

    @property
    def device(self) -> Device: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice) -> DeviceArray:
        """A view of one row or of consecutive rows. Raises IndexError for a row out of range."""
        ...

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """The values on the host: a view of host memory unless ``copy``, a copy of GPU memory."""
        ...

    def as_batch(self) -> DeviceArray:
        """A view with a leading axis of size 1."""
        ...


@dataclass(frozen=True)
class GpuArray:
    """An array in GPU memory, which ``owner`` keeps alive."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    device: GpuDevice
    owner: Any

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> GpuArray:
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(index, int):
            if not 0 <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            start, shape = index, self.shape[1:]
        else:
            start, stop, step = index.indices(self.shape[0])
            assert step == 1
            shape = (max(stop - start, 0), *self.shape[1:])
        address = self.address + start * row_bytes
        return GpuArray(shape, self.dtype, address, self.device, self.owner)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        values = self.device.to_host(self)
        return values if dtype is None else values.astype(dtype, copy=False)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def as_batch(self) -> GpuArray:
        return replace(self, shape=(1, *self.shape))


class HostArray:
    """A NumPy array. Kept minimal, because a decoder binds dozens of them at each token."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    @property
    def address(self) -> int:
        return int(self.values.ctypes.data)

    @property
    def device(self) -> HostDevice:
        return HOST

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice) -> HostArray:
        if isinstance(index, int) and index < 0:
            raise IndexError(f"row {index} of {len(self)}")
        return HostArray(self.values[index])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        values = self.values.copy() if copy else self.values
        return values if dtype is None else values.astype(dtype, copy=False)

    def as_batch(self) -> HostArray:
        return HostArray(self.values[None])


class HostDevice:
    """Host memory."""

    kind, index = "cpu", 0

    def __str__(self) -> str:
        return self.kind

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> HostArray:
        return HostArray(np.empty(shape, dtype))

    def put(self, values: np.ndarray) -> HostArray:
        return HostArray(np.ascontiguousarray(values))

    def grow(self, array: DeviceArray, rows: int, axis: int) -> HostArray:
        return HostArray(grow_axis(np.asarray(array), rows, axis))


HOST = HostDevice()


def grow_axis(values: np.ndarray, rows: int, axis: int) -> np.ndarray:
    """Copy an array into one with ``rows`` along ``axis``; new rows are uninitialized."""
    shape = list(values.shape)
    shape[axis] = rows - shape[axis]
    return np.concatenate((values, np.empty(shape, values.dtype)), axis)


def view_at(values: np.ndarray, base: int, array: DeviceArray) -> np.ndarray:
    """The values of ``array``, given those of the complete allocation at address ``base``."""
    start = (array.address - base) // array.dtype.itemsize
    return values.reshape(-1)[start : start + prod(array.shape)].reshape(array.shape)
