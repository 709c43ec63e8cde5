"""Dense arrays that a runtime reads and writes where they lie, on the host or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
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

    def host(self, array: DeviceArray) -> np.ndarray:
        """An array's values on the host: a view of host memory, a copy of a GPU's."""
        ...


@dataclass(frozen=True)
class DeviceArray:
    """A dense array at an address; ``owner`` keeps its memory alive."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    device: Device
    owner: Any

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: int | slice) -> DeviceArray:
        """A row, or rows one after the other; the same memory. IndexError outside of it."""
        row = prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(where, int):
            if not 0 <= where < len(self):
                raise IndexError(f"row {where} of {len(self)}")
            start, shape = where, self.shape[1:]
        else:
            start, stop, step = where.indices(self.shape[0])
            assert step == 1
            shape = (max(stop - start, 0), *self.shape[1:])
        return DeviceArray(shape, self.dtype, self.address + start * row, self.device, self.owner)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Its values on the host: a view of host memory unless ``copy``, a copy of a GPU's."""
        values = self.device.host(self)
        if copy:
            values = values.copy()
        return values if dtype is None else values.astype(dtype, copy=False)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class HostDevice:
    """NumPy's memory."""

    kind, index = "cpu", 0

    def __str__(self) -> str:
        return self.kind

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
        return self.put(np.empty(shape, dtype))

    def put(self, values: np.ndarray) -> DeviceArray:
        values = np.ascontiguousarray(values)
        return DeviceArray(values.shape, values.dtype, values.ctypes.data, self, values)

    def grown(self, array: DeviceArray, rows: int, axis: int) -> DeviceArray:
        return self.put(lengthened(np.asarray(array), rows, axis))

    def host(self, array: DeviceArray) -> np.ndarray:
        return part(array.owner, array.owner.ctypes.data, array)


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
