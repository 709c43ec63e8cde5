"""The features of all frames that anybody still holds, in one array that the packer reads."""

from __future__ import annotations

from collections import deque

import numpy as np

from llava_st_ros.engine.device_arrays import Device, DeviceArray


class FramePool:
    """Rows [N, D] of one array [S, N, D]; a row is given out again when its holder is gone."""

    def __init__(self, device: Device, frame: tuple[int, int], dtype: np.dtype, rows: int) -> None:
        self._device = device
        self.array = device.empty((rows, *frame), dtype)
        self._free = deque(range(rows))

    def take(self) -> PooledFrame:
        """A free row; where there is none the array grows (and moves) first."""
        if not self._free:
            rows = len(self.array)
            self.array = self._device.grown(self.array, 2 * rows, axis=0)
            self._free.extend(range(rows, 2 * rows))
        return PooledFrame(self, self._free.popleft())

    def give_back(self, row: int) -> None:
        self._free.append(row)


class PooledFrame:
    """A row of a pool, its own until it is garbage."""

    def __init__(self, pool: FramePool, row: int) -> None:
        self.pool, self.row = pool, row

    def __del__(self) -> None:
        self.pool.give_back(self.row)

    @property
    def array(self) -> DeviceArray:
        """The features [N, D], where they lie now."""
        return self.pool.array[self.row]

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        """A copy: the row may be another frame's later."""
        return np.asarray(self.array).astype(dtype or self.array.dtype)
