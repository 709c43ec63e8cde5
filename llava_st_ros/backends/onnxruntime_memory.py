"""CUDA memory that ONNX Runtime allocates, for its own sessions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime

from llava_st_ros.engine.device_arrays import DeviceArray, GpuArray, grow_axis, view_at


@dataclass(frozen=True)
class OrtDevice:
    """A GPU of ONNX Runtime's CUDA execution provider."""

    index: int = 0
    kind = "cuda"

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> GpuArray:
        dtype = np.dtype(dtype)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self.kind, self.index
        )
        return GpuArray(shape, dtype, value.data_ptr(), self, value)

    def put(self, values: np.ndarray) -> GpuArray:
        values = np.ascontiguousarray(values)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(values, self.kind, self.index)
        return GpuArray(values.shape, values.dtype, value.data_ptr(), self, value)

    def grow(self, array: DeviceArray, rows: int, axis: int) -> GpuArray:
        """Grow on the host: ONNX Runtime's API copies to a GPU only from there."""
        return self.put(grow_axis(np.asarray(array), rows, axis))

    def to_host(self, array: GpuArray) -> np.ndarray:
        return view_at(array.owner.numpy(), array.owner.data_ptr(), array)
