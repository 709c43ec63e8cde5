"""Memory that ONNX Runtime reads and writes where it lies, on the CPU or a CUDA device."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnxruntime


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
        """Its values on the host: a view of CPU memory unless ``copy``, a copy of a device's."""
        values = self.device.host(self)
        if copy:
            values = values.copy()
        return values if dtype is None else values.astype(dtype, copy=False)


@dataclass(frozen=True)
class Device:
    """Where a session computes: ``kind`` "cpu" or "cuda", and which of them."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
        """New memory, its contents anything."""
        dtype = np.dtype(dtype)
        if self.kind == "cpu":
            return self.put(np.empty(shape, dtype))
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self.kind, self.index
        )
        return DeviceArray(shape, dtype, value.data_ptr(), self, value)

    def put(self, values: np.ndarray) -> DeviceArray:
        """An array's values here; on the CPU that array's own memory."""
        values = np.ascontiguousarray(values)
        if self.kind == "cpu":
            return DeviceArray(values.shape, values.dtype, values.ctypes.data, self, values)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(values, self.kind, self.index)
        return DeviceArray(values.shape, values.dtype, value.data_ptr(), self, value)

    def grown(self, array: DeviceArray, rows: int, axis: int) -> DeviceArray:
        """A longer copy of an array, through the host."""
        values = np.asarray(array)
        shape = list(values.shape)
        shape[axis] = rows - shape[axis]
        return self.put(np.concatenate((values, np.empty(shape, values.dtype)), axis))

    def host(self, array: DeviceArray) -> np.ndarray:
        """An array's values on the host."""
        whole = array.owner if self.kind == "cpu" else array.owner.numpy()
        base = array.owner.ctypes.data if self.kind == "cpu" else array.owner.data_ptr()
        start = (array.address - base) // array.dtype.itemsize
        return whole.reshape(-1)[start : start + prod(array.shape)].reshape(array.shape)
