"""TensorRT engine files, run on arrays that the caller provides.

By the Python API that TensorRT 10.3 to 11 and TensorRT for RTX share.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf, log
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from llava_st_ros.engine.cuda_device import CudaDevice, CudaGraph
from llava_st_ros.engine.device_arrays import HOST, DeviceArray, GpuArray
from llava_st_ros.engine.manifest import REBUILD
from llava_st_ros.engine.tensorrt_api import error_logger, load_plugins
from llava_st_ros.errors import BackendError, EngineError

ALIGNMENT = 256  # bytes, of every address (IExecutionContext::setTensorAddress)
NAMED = 3  # inputs in an error: a decoder has many of one size
RECORDED = 4  # CUDA graphs that a session keeps

DTYPES = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}  # by TensorRT's name, of what inputs and outputs may be

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # an input's least, usual and greatest shape


class Runtime:
    """TensorRT's runtime, which the sessions of a model share.

    ``library`` holds the plugins of its engines. ``host_code`` lets an engine bring code of its
    own that runs on the host, as version-compatible ones do. Raises EngineError for a library that
    TensorRT does not take.
    """

    def __init__(
        self, tensorrt: ModuleType, *, library: Path | None = None, host_code: bool = False
    ) -> None:
        self.tensorrt = tensorrt
        self.logger = error_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self.logger)
        self._runtime.engine_host_code_allowed = host_code
        if library is not None:
            load_plugins(self._runtime.get_plugin_registry(), library, self.logger)

    def deserialize(self, path: Path) -> Any:
        """The ICudaEngine of a file. Raises EngineError."""
        try:
            # Mapped: weights must not be in memory twice.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
                engine = self._runtime.deserialize_cuda_engine(m)
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: {error}; expected an engine file", REBUILD) from error
        if engine is None:
            raise EngineError(
                f"{path}: TensorRT {self.tensorrt.__version__} does not load it: "
                f"{self.logger.said}"
                "; expected an engine built by this TensorRT on this GPU",
                REBUILD,
            )
        return engine


class Session:
    """One engine file on a device. Calls must come one after the other.

    ``inputs`` and ``outputs`` are the data types by name, ``profiles`` the sizes that it was built
    for. With ``record`` what recurs is run as a CUDA graph: calls of the same shapes and
    addresses. Outputs are then computed in memory of the session's own and copied. Scratch memory
    comes by ``use_scratch``, before the first run. Raises EngineError for a file that TensorRT does
    not load.
    """

    def __init__(
        self, runtime: Runtime, path: Path, device: CudaDevice, *, record: bool = False
    ) -> None:
        self._path, self._runtime, self._device = path, runtime, device
        device.use()
        self._engine = runtime.deserialize(path)
        modes, places = runtime.tensorrt.TensorIOMode, runtime.tensorrt.TensorLocation
        self.inputs, self.outputs = self._tensors(modes.INPUT), self._tensors(modes.OUTPUT)
        self._on_host = {
            name for name in self.inputs if self._engine.get_tensor_location(name) == places.HOST
        }
        self.profiles = _profiles(self._engine, self.inputs)
        self._contexts = [self._context(index) for index in range(len(self.profiles))]
        # A graph keeps the values of host inputs that it was recorded with.
        self._record = record and not self._on_host
        self._recorded: OrderedDict[Any, tuple[Any, CudaGraph]] = OrderedDict()
        self._own: dict[str, GpuArray] = {}
        self._scratch = device.empty((0,), np.uint8)

    def __del__(self) -> None:
        with suppress(BackendError):
            self._device.synchronize()  # contexts that run must not go

    @property
    def scratch_size(self) -> int:
        """Bytes that a run needs besides its inputs and outputs, at most."""
        return int(self._engine.device_memory_size_v2)

    def use_scratch(self, memory: DeviceArray) -> None:
        """Compute in this memory, of ``scratch_size`` bytes or more. Sessions of one device may
        have the same, for their runs follow each other."""
        self._scratch = memory
        for context in self._contexts:
            context.set_device_memory(memory.address, memory.nbytes)

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Compute ``outputs`` from ``inputs``; arrays of this device or of the host.

        Host arrays among the outputs are whole on return, the others in the stream's order. Raises
        BackendError for sizes that the engine was not built for, and where TensorRT refuses.
        """
        shapes = {name: array.shape for name, array in inputs.items()}
        index = nearest_profile(self.profiles, shapes)
        if index is None:
            raise BackendError(
                f"{self._path.name}: {misfit(self.profiles, shapes)}"
                "; expected sizes that it was built for",
                "keep fewer frames or ask less at once, or export with wider profiles",
            )
        self._device.use()
        bound = {name: self._readable(name, array) for name, array in inputs.items()}
        bound |= {name: self._writable(name, array) for name, array in outputs.items()}
        if self._record:
            self._replay(index, bound)
        else:
            self._set(self._contexts[index], bound)
            self._enqueue(self._contexts[index])
        for name, array in outputs.items():
            if array.device.kind == "cpu":
                self._device.read(bound[name], np.asarray(array))
            elif bound[name] is not array:
                self._device.copy(bound[name], array)
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

    def _context(self, profile: int) -> Any:
        strategy = self._runtime.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        with suppress(RuntimeError):  # what it says is in the log
            if context and context.set_optimization_profile_async(profile, self._device.stream):
                return context
        raise EngineError(
            f"{self._path}: TensorRT cannot run it: {self._runtime.logger.said}"
            "; expected an engine that runs on this GPU",
            "free memory of the GPU, or export it again",
        )

    def _replay(self, profile: int, bound: Mapping[str, DeviceArray]) -> None:
        """By the CUDA graph recorded of an equal call, or record it for the next."""
        key = (profile, *((array.shape, array.address) for array in bound.values()))
        if key in self._recorded:
            self._recorded.move_to_end(key)
            self._recorded[key][1].launch()
            return
        # A graph is bound to the state of its context, so it has one that nothing else changes.
        context = self._context(profile)
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        self._set(context, bound)
        self._enqueue(context)  # new shapes are worked out here, which cannot be recorded
        try:
            graph = self._device.record(lambda: self._enqueue(context))
        except BackendError:
            self._record = False  # an engine that cannot be recorded runs as it is
            return
        self._recorded[key] = context, graph
        if len(self._recorded) > RECORDED:
            self._device.synchronize()
            self._recorded.popitem(last=False)

    def _set(self, context: Any, bound: Mapping[str, DeviceArray]) -> None:
        inputs = [name for name in bound if name in self.inputs]
        fits = all(context.set_input_shape(name, bound[name].shape) for name in inputs)
        fits &= all(context.set_tensor_address(name, bound[name].address) for name in bound)
        if not fits:
            self._refused("does not take its inputs")
        for name, array in bound.items():
            if name in self.outputs and tuple(context.get_tensor_shape(name)) != array.shape:
                raise BackendError(
                    f"{self._path.name}: {name} {list(array.shape)}"
                    + "; expected "
                    + (str(list(context.get_tensor_shape(name)))),
                    "export the checkpoint again",
                )

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            self._refused("does not run it")

    def _refused(self, what: str) -> NoReturn:
        raise BackendError(
            f"{self._path.name}: TensorRT {what}: {self._runtime.logger.said}"
            "; expected a graph that runs",
            REBUILD,
        )

    def _readable(self, name: str, array: DeviceArray) -> DeviceArray:
        """An input where TensorRT can read it."""
        self._check_dtype(name, array, self.inputs)
        if name in self._on_host:
            return HOST.put(np.asarray(array))
        if array.device.kind == "cpu":
            own = self._own_memory(name, array)
            self._device.write(np.asarray(array), own)
        elif array.address % ALIGNMENT:
            own = self._own_memory(name, array)
            self._device.copy(array, own)
        else:
            return array
        return own

    def _writable(self, name: str, array: DeviceArray) -> DeviceArray:
        """Memory where TensorRT can put an output."""
        self._check_dtype(name, array, self.outputs)
        if self._record or array.device.kind == "cpu" or array.address % ALIGNMENT:
            return self._own_memory(name, array)
        return array

    def _own_memory(self, name: str, like: DeviceArray) -> DeviceArray:
        """The session's memory for a tensor, kept for the next run."""
        if name not in self._own or self._own[name].nbytes < like.nbytes:
            before = self._own[name].nbytes if name in self._own else 0
            self._own[name] = self._device.empty((max(like.nbytes, 2 * before),), np.uint8)
        return replace(self._own[name], shape=like.shape, dtype=like.dtype)

    def _check_dtype(self, name: str, array: DeviceArray, known: Mapping[str, np.dtype]) -> None:
        if known.get(name) != array.dtype:
            raise BackendError(
                f"{self._path.name}: {name} {array.dtype}"
                + "; expected "
                + (str(known.get(name, f"one of {', '.join(known)}"))),
                REBUILD,
            )


def nearest_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Of the profiles that the inputs' shapes lie within the one whose usual shapes are nearest, by
    the sizes' ratios; None where there is none.

    Inputs with equal sizes count once: a decoder's many keys and values are one length.
    """
    best, least = None, inf
    for index, profile in enumerate(profiles):
        if _outside(profile, shapes):
            continue
        sizes = {
            size
            for name, shape in shapes.items()
            for size in zip(shape, profile[name][1])  # 0 is a size too
        }
        distance = sum(abs(log((1 + found) / (1 + usual))) for found, usual in sizes)
        if distance < least:
            best, least = index, distance
    return best


def misfit(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> str:
    """Of shapes that lie within no profile, up to NAMED inputs that keep them out of the one where
    fewest do, with the range of each."""
    profile, names = min(((p, _outside(p, shapes)) for p in profiles), key=lambda one: len(one[1]))
    return ", ".join(
        f"{name} {list(shapes[name])} outside {list(profile[name][0])} to {list(profile[name][2])}"
        if name in profile
        else f"unknown {name}"
        for name in names[:NAMED]
    )


def _outside(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    def within(name: str) -> bool:
        least, _, most = profile[name]
        shape = shapes[name]
        return len(shape) == len(most) and all(
            low <= size <= high for low, size, high in zip(least, shape, most)
        )

    return [name for name in shapes if name not in profile or not within(name)]


def _profiles(engine: Any, inputs: Iterable[str]) -> list[Profile]:
    def shapes(name: str, index: int) -> tuple[Shape, Shape, Shape]:
        least, usual, most = engine.get_tensor_profile_shape(name, index)
        return tuple(least), tuple(usual), tuple(most)

    count = engine.num_optimization_profiles
    return [{name: shapes(name, index) for name in inputs} for index in range(count)]
