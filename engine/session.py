"""Sessions of TensorRT engine files, run on arrays that the caller provides.

Uses the part of the Python API that TensorRT 10.3 to 11 and TensorRT for RTX share.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from llava_st_ros.engine.cuda_device import CudaDevice, CudaGraph
from llava_st_ros.engine.device_arrays import HOST, DeviceArray, GpuArray
from llava_st_ros.engine.manifest import REBUILD
from llava_st_ros.engine.profiles import Profile, ShapeRange, describe_misfit, select_profile
from llava_st_ros.engine.tensorrt_api import error_logger, load_plugins
from llava_st_ros.errors import BackendError, EngineError

ALIGNMENT = 256  # bytes, of every address (IExecutionContext::setTensorAddress)
MAX_CAPTURED_GRAPHS = 4  # per session

# The data types of inputs and outputs, by TensorRT's names.
DTYPES = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}


class TensorRTRuntime:
    """TensorRT's runtime, shared by the sessions of a model.

    Args:
        tensorrt: The TensorRT package.
        library: The plugin library that the engines need.
        host_code: Allow engines to contain host code, as version-compatible ones do.

    Raises:
        EngineError: TensorRT cannot load the library.
    """

    def __init__(
        self, tensorrt: ModuleType, *, library: Path | None = None, host_code: bool = False
    ) -> None:
        self.tensorrt = tensorrt
        self.logger = error_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self.logger)
        self._runtime.engine_host_code_allowed = host_code
        if library is not None:
            load_plugins(self.plugin_registry, library, self.logger)

    @property
    def plugin_registry(self) -> Any:
        """The runtime's IPluginRegistry."""
        return self._runtime.get_plugin_registry()

    def deserialize(self, path: Path) -> Any:
        """Deserialize a file into an ICudaEngine. Raises EngineError."""
        try:
            # Memory-mapped, so that the weights are not in host memory a second time.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
                engine = self._runtime.deserialize_cuda_engine(m)
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} is unreadable: {error}", REBUILD) from error
        if engine is None:
            raise EngineError(
                f"{path}: TensorRT {self.tensorrt.__version__} cannot load this engine on this "
                f"GPU: {self.logger.last_error}",
                REBUILD,
            )
        return engine


class EngineSession:
    """An engine with one execution context per optimization profile; not thread-safe.

    Call ``set_workspace`` before the first run.

    Args:
        runtime: The runtime that loads the engine.
        path: The engine file.
        device: Where it runs.
        cuda_graphs: Capture repeated calls (equal shapes and addresses) as CUDA graphs. Outputs are
            then computed in the session's own memory and copied.

    Attributes:
        inputs: Data types of the inputs, by name.
        outputs: Data types of the outputs, by name.
        profiles: The optimization profiles.

    Raises:
        EngineError: TensorRT cannot load the engine.
    """

    def __init__(
        self, runtime: TensorRTRuntime, path: Path, device: CudaDevice, *, cuda_graphs: bool = False
    ) -> None:
        self._path, self._runtime, self._device = path, runtime, device
        device.make_current()
        self._engine = runtime.deserialize(path)
        modes, locations = runtime.tensorrt.TensorIOMode, runtime.tensorrt.TensorLocation
        self.inputs, self.outputs = self._tensors(modes.INPUT), self._tensors(modes.OUTPUT)
        self._host_inputs = {
            name for name in self.inputs if self._engine.get_tensor_location(name) == locations.HOST
        }
        self.profiles = _profiles(self._engine, self.inputs)
        self._contexts = [self._create_context(index) for index in range(len(self.profiles))]
        # A CUDA graph keeps the values of host inputs that it was captured with.
        self._use_graphs = cuda_graphs and not self._host_inputs
        self._captured: OrderedDict[Any, tuple[Any, CudaGraph]] = OrderedDict()
        self._buffers: dict[str, GpuArray] = {}
        self._workspace: DeviceArray = device.empty((0,), np.uint8)

    def __del__(self) -> None:
        with suppress(BackendError):
            self._device.synchronize()  # a running context must not be destroyed

    @property
    def workspace_size(self) -> int:
        """Bytes of device memory that a run needs besides its inputs and outputs."""
        return int(self._engine.device_memory_size_v2)

    @property
    def captured_graphs(self) -> int:
        """Number of CUDA graphs that the session keeps."""
        return len(self._captured)

    def set_workspace(self, memory: DeviceArray) -> None:
        """Use this memory, of at least ``workspace_size`` bytes, as the activations' workspace.

        Sessions on one device may share it, because their runs are serialized by its stream.
        """
        self._workspace = memory
        for context in self._contexts:
            context.set_device_memory(memory.address, memory.nbytes)

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Run the engine; arrays are on this device or on the host.

        Host outputs are complete on return; device outputs are complete in stream order.

        Raises:
            BackendError: No profile fits the inputs' shapes, or TensorRT reports an error.
        """
        shapes = {name: array.shape for name, array in inputs.items()}
        index = select_profile(self.profiles, shapes)
        if index is None:
            raise BackendError(
                f"{self._path.name} was built for other sizes: "
                f"{describe_misfit(self.profiles, shapes)}",
                "keep fewer frames, shorten the query, or export with wider profiles",
            )
        self._device.make_current()
        bindings = {name: self._bind_input(name, array) for name, array in inputs.items()}
        bindings |= {name: self._bind_output(name, array) for name, array in outputs.items()}
        if self._use_graphs:
            self._launch_graph(index, bindings)
        else:
            self._set_bindings(self._contexts[index], bindings)
            self._enqueue(self._contexts[index])
        for name, array in outputs.items():
            if array.device.kind == "cpu":
                self._device.copy_to_host(bindings[name], np.asarray(array))
            elif bindings[name] is not array:
                self._device.copy(bindings[name], array)
        if any(array.device.kind == "cpu" for array in outputs.values()):
            self._device.synchronize()

    def _tensors(self, mode: Any) -> dict[str, np.dtype]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        types = {
            name: engine.get_tensor_dtype(name).name
            for name in names
            if engine.get_tensor_mode(name) == mode
        }
        for name, found in types.items():
            if found not in DTYPES:
                raise EngineError(
                    f"{self._path}: {name} is {found}; expected one of {', '.join(DTYPES)}", REBUILD
                )
        return {name: DTYPES[found] for name, found in types.items()}

    def _create_context(self, profile: int) -> Any:
        strategy = self._runtime.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        with suppress(RuntimeError):  # the logger has the reason
            if context and context.set_optimization_profile_async(profile, self._device.stream):
                return context
        raise EngineError(
            f"{self._path}: TensorRT cannot create an execution context: "
            f"{self._runtime.logger.last_error}",
            "free GPU memory, or export the checkpoint again",
        )

    def _launch_graph(self, profile: int, bindings: Mapping[str, DeviceArray]) -> None:
        """Launch the CUDA graph of an equal call, or run and capture the call."""
        key = (profile, *((array.shape, array.address) for array in bindings.values()))
        if key in self._captured:
            self._captured.move_to_end(key)
            self._captured[key][1].launch()
            return
        # A graph depends on the state of its context, so it gets one that nothing else changes.
        context = self._create_context(profile)
        context.set_device_memory(self._workspace.address, self._workspace.nbytes)
        self._set_bindings(context, bindings)
        self._enqueue(context)  # shape inference happens here; it cannot be captured
        try:
            graph = self._device.capture(lambda: self._enqueue(context))
        except BackendError:
            self._use_graphs = False  # an engine that cannot be captured runs without graphs
            return
        self._captured[key] = context, graph
        if len(self._captured) > MAX_CAPTURED_GRAPHS:
            self._device.synchronize()
            self._captured.popitem(last=False)

    def _set_bindings(self, context: Any, bindings: Mapping[str, DeviceArray]) -> None:
        inputs = [name for name in bindings if name in self.inputs]
        accepted = all(context.set_input_shape(name, bindings[name].shape) for name in inputs)
        accepted &= all(
            context.set_tensor_address(name, bindings[name].address) for name in bindings
        )
        if not accepted:
            self._raise("rejected its inputs")
        for name, array in bindings.items():
            if name in self.outputs and tuple(context.get_tensor_shape(name)) != array.shape:
                raise BackendError(
                    f"{self._path.name}: {name} is {list(array.shape)}; expected "
                    f"{list(context.get_tensor_shape(name))}",
                    "export the checkpoint again",
                )

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            self._raise("failed to enqueue it")

    def _raise(self, problem: str) -> NoReturn:
        raise BackendError(
            f"{self._path.name}: TensorRT {problem}: {self._runtime.logger.last_error}", REBUILD
        )

    def _bind_input(self, name: str, array: DeviceArray) -> DeviceArray:
        """The input in memory that TensorRT can read: itself, or a copy."""
        self._check_dtype(name, array, self.inputs)
        if name in self._host_inputs:
            return HOST.put(np.asarray(array))
        if array.device.kind == "cpu":
            buffer = self._buffer(name, array)
            self._device.copy_from_host(np.asarray(array), buffer)
        elif array.address % ALIGNMENT:
            buffer = self._buffer(name, array)
            self._device.copy(array, buffer)
        else:
            return array
        return buffer

    def _bind_output(self, name: str, array: DeviceArray) -> DeviceArray:
        """Memory that TensorRT can write the output to: its own, or a buffer."""
        self._check_dtype(name, array, self.outputs)
        if self._use_graphs or array.device.kind == "cpu" or array.address % ALIGNMENT:
            return self._buffer(name, array)
        return array

    def _buffer(self, name: str, like: DeviceArray) -> DeviceArray:
        """The session's own memory for a tensor, kept for the next run."""
        if name not in self._buffers or self._buffers[name].nbytes < like.nbytes:
            old_size = self._buffers[name].nbytes if name in self._buffers else 0
            self._buffers[name] = self._device.empty((max(like.nbytes, 2 * old_size),), np.uint8)
        return replace(self._buffers[name], shape=like.shape, dtype=like.dtype)

    def _check_dtype(self, name: str, array: DeviceArray, dtypes: Mapping[str, np.dtype]) -> None:
        if dtypes.get(name) != array.dtype:
            expected = dtypes.get(name, f"one of {', '.join(dtypes)}")
            raise BackendError(
                f"{self._path.name}: {name} is {array.dtype}; expected {expected}", REBUILD
            )


def _profiles(engine: Any, inputs: Iterable[str]) -> list[Profile]:
    def shape_range(name: str, index: int) -> ShapeRange:
        return ShapeRange(*map(tuple, engine.get_tensor_profile_shape(name, index)))

    return [
        {name: shape_range(name, index) for name in inputs}
        for index in range(engine.num_optimization_profiles)
    ]
