"""Dense arrays that a runtime reads and writes where they lie, on the host or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """Where arrays lie: ``kind`` "cpu" or "cuda", and which of them."""

    @property
    def kind(self) -> str: ...

    @property
    def index(self) -> int: ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
        """New memory, its contents anything."""
        ...

    def put(self, values: np.ndarray) -> DeviceArray:
        """An array's values here; on the host that array's own memory."""
        ...

    def grown(self, array: DeviceArray, rows: int, axis: int) -> DeviceArray:
        """A copy with ``rows`` along ``axis``, the contents of the new ones anything."""
        ...


class Gpu(Device, Protocol):
    """A device whose memory the host cannot read."""

    def host(self, array: GpuArray) -> np.ndarray:
        """A copy of an array's values on the host."""
        ...


class DeviceArray(Protocol):
    """A dense array at an address of a device."""

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

    def __getitem__(self, where: int | slice) -> DeviceArray:
        """A row, or rows one after the other; the same memory. IndexError outside of it."""
        ...

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Its values on the host: a view of host memory unless ``copy``, a copy of a GPU's."""
        ...

    def as_batch(self) -> DeviceArray:
        """The same memory with one more axis, of size 1, before the others."""
        ...


@dataclass(frozen=True)
class GpuArray:
    """An array whose memory ``owner`` keeps alive."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    device: Gpu
    owner: Any

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: int | slice) -> GpuArray:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(where, int):
            if not 0 <= where < len(self):
                raise IndexError(f"row {where} of {len(self)}")
            start, shape = where, self.shape[1:]
        else:
            start, stop, step = where.indices(self.shape[0])
            assert step == 1
            shape = (max(stop - start, 0), *self.shape[1:])
        return GpuArray(shape, self.dtype, self.address + start * row, self.device, self.owner)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        values = self.device.host(self)
        return values if dtype is None else values.astype(dtype, copy=False)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def as_batch(self) -> GpuArray:
        return replace(self, shape=(1, *self.shape))


class HostArray:
    """An array of NumPy's. A decoder is given dozens at each token: no more is done than needed."""

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

    def __getitem__(self, where: int | slice) -> HostArray:
        if isinstance(where, int) and where < 0:
            raise IndexError(f"row {where} of {len(self)}")
        return HostArray(self.values[where])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        values = self.values.copy() if copy else self.values
        return values if dtype is None else values.astype(dtype, copy=False)

    def as_batch(self) -> HostArray:
        return HostArray(self.values[None])


class HostDevice:
    """NumPy's memory."""

    kind, index = "cpu", 0

    def __str__(self) -> str:
        return self.kind

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> HostArray:
        return HostArray(np.empty(shape, dtype))

    def put(self, values: np.ndarray) -> HostArray:
        return HostArray(np.ascontiguousarray(values))

    def grown(self, array: DeviceArray, rows: int, axis: int) -> HostArray:
        return HostArray(lengthened(np.asarray(array), rows, axis))


HOST = HostDevice()


def lengthened(values: np.ndarray, rows: int, axis: int) -> np.ndarray:
    """A copy with ``rows`` along an axis."""
    shape = list(values.shape)
    shape[axis] = rows - shape[axis]
    return np.concatenate((values, np.empty(shape, values.dtype)), axis)


def part(whole: np.ndarray, base: int, array: DeviceArray) -> np.ndarray:
    """Where ``whole`` has the values of the memory at ``base``: those of an array within it."""
    start = (array.address - base) // array.dtype.itemsize
    return whole.reshape(-1)[start : start + prod(array.shape)].reshape(array.shape)
