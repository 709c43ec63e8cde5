"""Memory, copies and one stream of a CUDA device, by NVIDIA's cuda-bindings: no torch needed.

Everything that is asked of a device is done in order, on its one stream. The host waits for it only
where it reads values.
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

UNREAD = 32  # host arrays that copies may still be reading before the host waits for them


class CudaDevice:
    """A GPU; ``stream`` is the handle of its stream, as other libraries take it.

    May be used from several threads. Raises BackendError where there is no such device, and from
    every method where CUDA refuses.
    """

    kind = "cuda"

    def __init__(self, index: int = 0) -> None:
        self._handle: Any = None
        # Held while work is recorded, which another thread's would spoil.
        self.queue = threading.RLock()
        self._unread: list[np.ndarray] = []
        driver_version()
        count = _call("cudaGetDeviceCount")
        if not 0 <= index < count:
            raise BackendError(f"device cuda:{index}; expected cuda:0 to cuda:{count - 1}")
        self.index = index
        self.use()
        # Blocking streams would wait for whatever else the process does on the default stream.
        self._handle = _call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._handle)

    def __del__(self) -> None:
        if self._handle is not None:
            runtime.cudaStreamDestroy(self._handle)

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"

    @property
    def name(self) -> str:
        """The GPU's, as CUDA gives it."""
        name: bytes = _call("cudaGetDeviceProperties", self.index).name
        return name.split(b"\0")[0].decode(errors="replace")

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Major and minor."""
        properties = _call("cudaGetDeviceProperties", self.index)
        return properties.major, properties.minor

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> GpuArray:
        """New memory, aligned to 256 bytes, its contents anything."""
        dtype = np.dtype(dtype)
        self.use()
        memory = _Memory(self, prod(shape) * dtype.itemsize)
        return GpuArray(shape, dtype, memory.address, self, memory)

    def put(self, values: np.ndarray) -> GpuArray:
        array = self.empty(values.shape, values.dtype)
        self.write(values, array)
        return array

    def write(self, values: np.ndarray, array: DeviceArray) -> None:
        """Values of the host into an array of this device. They must not change before the next
        ``synchronize``, for a copy may still read them."""
        values = np.ascontiguousarray(values)
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(array.address, values.ctypes.data, array.nbytes, kind)
        # Only once it is queued: another thread's wait may let go of what it finds here.
        self._unread.append(values)
        if len(self._unread) > UNREAD:
            self.synchronize()

    def read(self, array: DeviceArray, values: np.ndarray) -> None:
        """An array of this device into a dense one of the host, which is whole after
        ``synchronize``."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(values.ctypes.data, array.address, array.nbytes, kind)

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        """Between two arrays of this device that have one size and do not overlap."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target.address, source.address, source.nbytes, kind)

    def grown(self, array: DeviceArray, rows: int, axis: int) -> GpuArray:
        shape = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
        longer = self.empty(shape, array.dtype)
        outer, row = prod(shape[:axis]), prod(shape[axis + 1 :]) * array.dtype.itemsize
        size, kind = array.shape[axis] * row, runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for i in range(outer):
            self._copy(longer.address + i * rows * row, array.address + i * size, size, kind)
        return longer

    def host(self, array: DeviceArray) -> np.ndarray:
        values = np.empty(array.shape, array.dtype)
        self.read(array, values)
        self.synchronize()
        return values

    def synchronize(self) -> None:
        """Wait for all that was asked of this device."""
        done, self._unread = self._unread, []
        with self.queue:
            self.use()
            _call("cudaStreamSynchronize", self._handle)
        del done

    def record(self, work: Callable[[], None]) -> CudaGraph:
        """What ``work`` puts on the stream, as a graph; nothing of it is done."""
        with self.queue:
            self.use()
            # Relaxed: what other threads ask of CUDA on other streams does not matter.
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

    def use(self) -> None:
        """Make it the calling thread's current device, as other libraries need it."""
        _call("cudaSetDevice", self.index)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        if size:
            with self.queue:
                self.use()
                _call("cudaMemcpyAsync", target, source, size, kind, self._handle)


class CudaGraph:
    """Recorded work of a device's stream."""

    def __init__(self, device: CudaDevice, executable: Any) -> None:
        self._device, self._executable = device, executable

    def __del__(self) -> None:
        with self._device.queue:
            runtime.cudaStreamSynchronize(self._device.stream)
            runtime.cudaGraphExecDestroy(self._executable)

    def launch(self) -> None:
        """Do it once more, in order with everything else."""
        with self._device.queue:
            self._device.use()
            _call("cudaGraphLaunch", self._executable, self._device.stream)


class _Memory:
    """Bytes of a device, given back when nobody holds them."""

    def __init__(self, device: CudaDevice, size: int) -> None:
        self.address = 0
        self._device = device
        self.address = int(_call("cudaMalloc", max(size, 1)))

    def __del__(self) -> None:
        if self.address:
            with self._device.queue:
                runtime.cudaStreamSynchronize(self._device.stream)  # what is queued may use it
                runtime.cudaFree(self.address)


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver runs, major and minor. Raises BackendError without one."""
    version: int = _call("cudaDriverGetVersion")
    if not version:
        raise BackendError(
            "no CUDA driver; expected an NVIDIA GPU and its driver", "install the driver"
        )
    return version // 1000, version % 1000 // 10


def _call(name: str, *arguments: Any) -> Any:
    error, *values = getattr(runtime, name)(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        said = runtime.cudaGetErrorString(error)[1].decode()
        raise BackendError(
            f"CUDA ({name}): {said}"
            "; expected an NVIDIA GPU with free memory and a driver as new as cuda-bindings",
            "free memory, or install the driver or an older cuda-bindings",
        )
    return values[0] if values else None
