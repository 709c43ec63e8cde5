"""ONNX Runtime over the graphs of an engine directory, on the CPU or a CUDA device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.graph_backend import GRAPHS, GraphBackend
from llava_st_ros.backends.onnxruntime_memory import OrtDevice
from llava_st_ros.engine.device_arrays import HOST, Device, DeviceArray
from llava_st_ros.errors import BackendError, EngineError

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
QUIET = 3  # errors only


class OnnxBackend(GraphBackend):
    """``threads`` is how many CPU threads one graph may use, 0 as OMP_NUM_THREADS says or else all
    cores. Raises EngineError for graphs that ONNX Runtime does not load or that are another
    version's, BackendError where the device is not there.
    """

    def __init__(self, engine: EngineFiles, *, device: str = "cpu", threads: int = 0) -> None:
        where, options = check_device(device), _options(threads)
        kind = OnnxGraph if where is HOST else BoundOnnxGraph
        graphs = {name: kind(engine.graph(name), options, where) for name in GRAPHS}
        super().__init__(NAME, engine, where, graphs)


class OnnxGraph:
    """A graph in a session of its own, on the host."""

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, device: Device) -> None:
        self._session = _session(path, options, device)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs: dict[str, np.dtype] = {}
        for value in self._session.get_outputs():
            if value.type not in DTYPES:
                raise EngineError(
                    f"{path}: {value.name} is a {value.type}; expected one of {', '.join(DTYPES)}",
                    "export the checkpoint again",
                )
            self.outputs[value.name] = DTYPES[value.type]

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        try:
            self._run(inputs, outputs)
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            raise BackendError(
                f"ONNX Runtime: {error}; expected a graph that runs", "export the checkpoint again"
            ) from error

    def _run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Inputs are read where they lie; to copy what comes out, a few new keys and values, takes
        a third of the time that binding them to their places would."""
        feed = {name: np.asarray(array) for name, array in inputs.items()}
        results = self._session.run(list(outputs), feed)
        for array, values in zip(outputs.values(), results):
            np.asarray(array)[...] = values


class BoundOnnxGraph(OnnxGraph):
    """On a GPU, which reads and writes its own memory by IO binding."""

    def _run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                device = array.device
                bind(name, device.kind, device.index, array.dtype, array.shape, array.address)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def check_device(name: str) -> Device:
    """ "cpu", "cuda" or "cuda:1". Raises BackendError where ONNX Runtime has no such provider."""
    kind, _, index = name.partition(":")
    if kind not in PROVIDERS or not (index or "0").isdigit() or (kind == "cpu" and index):
        raise BackendError(f"device {name!r}; expected cpu, cuda or cuda:N")
    available = onnxruntime.get_available_providers()
    if PROVIDERS[kind] not in available:
        raise BackendError(
            f"device {name!r}, but this ONNX Runtime has {', '.join(available)}"
            + "; expected "
            + (PROVIDERS[kind]),
            "install onnxruntime-gpu in place of onnxruntime, or use cpu",
        )
    return HOST if kind == "cpu" else OrtDevice(int(index or 0))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (int(limit) if limit.isdigit() else 0)
    # Each graph has threads of its own; those of one that waits must not keep cores busy.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = QUIET
    return options


def _session(
    path: Path, options: onnxruntime.SessionOptions, device: Device
) -> onnxruntime.InferenceSession:
    provider = PROVIDERS[device.kind]
    # TF32 would make a float32 engine another one.
    settings = {} if device.kind == "cpu" else {"device_id": device.index, "use_tf32": 0}
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, [(provider, settings)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors share no base of their own
        raise EngineError(
            f"{path}: {error}; expected a graph that ONNX Runtime loads",
            "export the checkpoint again",
        ) from error
    if provider not in session.get_providers():  # it falls back to the CPU and says nothing
        raise BackendError(
            f"device {device}, but ONNX Runtime could not start {provider}"
            "; expected CUDA and cuDNN of the versions that onnxruntime-gpu names",
            "install them, or use cpu",
        )
    return session
