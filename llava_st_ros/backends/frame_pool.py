"""A pool of frame features in one array, which the packer graph reads by row."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from llava_st_ros.engine.device_arrays import Device, DeviceArray


class FramePool:
    """Rows [N, D] of one array [S, N, D]. A row is reused when its PooledFrame is garbage."""

    def __init__(
        self, device: Device, frame_shape: tuple[int, int], dtype: np.dtype, rows: int
    ) -> None:
        self._device = device
        self.array = device.empty((rows, *frame_shape), dtype)
        self._free = deque(range(rows))

    def __len__(self) -> int:
        return len(self.array)

    def acquire(self) -> PooledFrame:
        """Allocate a free row. A full pool is first doubled, which moves its array."""
        if not self._free:
            rows = len(self)
            self.array = self._device.grow(self.array, 2 * rows, axis=0)
            self._free.extend(range(rows, 2 * rows))
        return PooledFrame(self, self._free.popleft())

    def release(self, row: int) -> None:
        """Mark a row as free."""
        self._free.append(row)


class PooledFrame:
    """A frame's features: a row of the pool, held until this object is garbage."""

    def __init__(self, pool: FramePool, row: int) -> None:
        self.pool, self.row = pool, row

    def __del__(self) -> None:
        self.pool.release(self.row)

    @property
    def array(self) -> DeviceArray:
        """The features [N, D], a view that is valid until the pool grows."""
        return self.pool.array[self.row]

    @property
    def nbytes(self) -> int:
        """Size of the features in bytes."""
        shape, dtype = self.pool.array.shape[1:], self.pool.array.dtype
        return math.prod(shape) * dtype.itemsize

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """A copy, because the row may be reused for another frame."""
        return np.asarray(self.array).astype(self.array.dtype if dtype is None else dtype)
