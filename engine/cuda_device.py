"""Memory, copies and one stream of a CUDA device through NVIDIA's cuda-bindings, without torch.

All work on a device is enqueued on its one stream, in order. The host waits only to read values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from cuda.bindings import runtime

from llava_st_ros.engine.device_arrays import DeviceArray, GpuArray
from llava_st_ros.errors import BackendError

MAX_PENDING = 32  # host arrays that enqueued copies may still read before the host synchronizes


class CudaDevice:
    """A CUDA device with one stream; thread-safe.

    Attributes:
        stream: The stream's handle, to pass to other libraries.
        stream_lock: Held while work is enqueued or captured; another thread's work would otherwise
            become part of the captured graph.

    Raises:
        BackendError: There is no such device. Every method raises it when a CUDA call fails.
    """

    kind = "cuda"

    def __init__(self, index: int = 0) -> None:
        self._handle: Any = None
        self.stream_lock = threading.RLock()
        self._pending: list[np.ndarray] = []
        driver_version()
        count = _call("cudaGetDeviceCount")
        if not 0 <= index < count:
            raise BackendError(f"device is cuda:{index}; expected cuda:0 to cuda:{count - 1}")
        self.index = index
        self.make_current()
        # A blocking stream would synchronize with the process's other work on the default stream.
        self._handle = _call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._handle)

    def __del__(self) -> None:
        if self._handle is not None:
            runtime.cudaStreamDestroy(self._handle)

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def name(self) -> str:
        """The GPU's name, as CUDA reports it."""
        name: bytes = _call("cudaGetDeviceProperties", self.index).name
        return name.split(b"\0")[0].decode(errors="replace")

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Major and minor compute capability."""
        properties = _call("cudaGetDeviceProperties", self.index)
        return properties.major, properties.minor

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> GpuArray:
        """Allocate an uninitialized array, aligned to 256 bytes."""
        dtype = np.dtype(dtype)
        self.make_current()
        memory = _Allocation(self, prod(shape) * dtype.itemsize)
        return GpuArray(shape, dtype, memory.address, self, memory)

    def put(self, values: np.ndarray) -> GpuArray:
        """Copy a NumPy array to the device."""
        array = self.empty(values.shape, values.dtype)
        self.copy_from_host(values, array)
        return array

    def copy_from_host(self, values: np.ndarray, array: DeviceArray) -> None:
        """Enqueue a copy of host values into an array of this device.

        ``values`` must not change before the next ``synchronize``.
        """
        values = np.ascontiguousarray(values)
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(array.address, values.ctypes.data, array.nbytes, kind)
        # After the copy is enqueued: another thread's synchronize releases everything in the list.
        self._pending.append(values)
        if len(self._pending) > MAX_PENDING:
            self.synchronize()

    def copy_to_host(self, array: DeviceArray, values: np.ndarray) -> None:
        """Enqueue a copy into contiguous host memory; complete after ``synchronize``."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(values.ctypes.data, array.address, array.nbytes, kind)

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        """Enqueue a copy between arrays of this device of the same size that do not overlap."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target.address, source.address, source.nbytes, kind)

    def grow(self, array: DeviceArray, rows: int, axis: int) -> GpuArray:
        """Copy an array into one with ``rows`` along ``axis``; new rows are uninitialized."""
        shape = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
        grown = self.empty(shape, array.dtype)
        outer, row = prod(shape[:axis]), prod(shape[axis + 1 :]) * array.dtype.itemsize
        size, kind = array.shape[axis] * row, runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for i in range(outer):
            self._copy(grown.address + i * rows * row, array.address + i * size, size, kind)
        return grown

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """Copy an array to the host, and wait for it."""
        values = np.empty(array.shape, array.dtype)
        self.copy_to_host(array, values)
        self.synchronize()
        return values

    def synchronize(self) -> None:
        """Wait for all enqueued work."""
        done, self._pending = self._pending, []
        with self.stream_lock:
            self.make_current()
            _call("cudaStreamSynchronize", self._handle)
        del done

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Capture what ``work`` enqueues on the stream into a CUDA graph, without running it."""
        with self.stream_lock:
            self.make_current()
            # Relaxed: other threads' CUDA calls on other streams do not invalidate the capture.
            mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
            _call("cudaStreamBeginCapture", self._handle, mode)
            try:
                work()
            except BaseException:
                runtime.cudaStreamEndCapture(self._handle)
                raise
            graph = _call("cudaStreamEndCapture", self._handle)
        try:
            return CudaGraph(self, _call("cudaGraphInstantiate", graph, 0))
        finally:
            runtime.cudaGraphDestroy(graph)

    def make_current(self) -> None:
        """Make this the calling thread's current device, as other libraries require."""
        _call("cudaSetDevice", self.index)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        if size:
            with self.stream_lock:
                self.make_current()
                _call("cudaMemcpyAsync", target, source, size, kind, self._handle)


class CudaGraph:
    """An instantiated CUDA graph, captured from a device's stream."""

    def __init__(self, device: CudaDevice, executable: Any) -> None:
        self._device, self._executable = device, executable

    def __del__(self) -> None:
        with self._device.stream_lock:
            runtime.cudaStreamSynchronize(self._device.stream)
            runtime.cudaGraphExecDestroy(self._executable)

    def launch(self) -> None:
        """Enqueue the graph on the device's stream."""
        with self._device.stream_lock:
            self._device.make_current()
            _call("cudaGraphLaunch", self._executable, self._device.stream)


class _Allocation:
    """Device memory, freed with this object."""

    def __init__(self, device: CudaDevice, size: int) -> None:
        self.address = 0
        self._device = device
        self.address = int(_call("cudaMalloc", max(size, 1)))

    def __del__(self) -> None:
        if self.address:
            with self._device.stream_lock:
                runtime.cudaStreamSynchronize(self._device.stream)  # enqueued work may use it
                runtime.cudaFree(self.address)


def driver_version() -> tuple[int, int]:
    """The newest CUDA version (major, minor) that the driver runs. Raises BackendError."""
    version: int = _call("cudaDriverGetVersion")
    if not version:
        raise BackendError(
            "no NVIDIA driver is installed, so CUDA is not available", "install the GPU's driver"
        )
    return version // 1000, version % 1000 // 10


def _call(name: str, *arguments: Any) -> Any:
    error, *values = getattr(runtime, name)(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        message = runtime.cudaGetErrorString(error)[1].decode()
        raise BackendError(
            f"CUDA: {name} failed: {message}",
            "use a GPU with free memory, and a driver at least as new as cuda-bindings",
        )
    return values[0] if values else None
