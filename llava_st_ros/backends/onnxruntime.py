"""The ONNX Runtime backend: an engine directory's graphs on the CPU or a CUDA device."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.graph_backend import GRAPHS, GraphBackend
from llava_st_ros.backends.onnxruntime_memory import OrtDevice
from llava_st_ros.engine.device import DeviceSpec
from llava_st_ros.engine.device_arrays import HOST, Device, DeviceArray
from llava_st_ros.errors import BackendError, EngineError, reason_of

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}
QUIET = 3  # log severity: errors only


class OnnxBackend(GraphBackend):
    """Runs an engine directory in ONNX Runtime.

    Args:
        engine: The engine directory.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads that one graph may use; 0 is OMP_NUM_THREADS if set, else all cores.

    Raises:
        EngineError: ONNX Runtime cannot load a graph, or a graph is of another version.
        BackendError: The device is not available.
    """

    def __init__(self, engine: EngineFiles, *, device: str = "cpu", threads: int = 0) -> None:
        resolved = resolve_device(device)
        session_class = OnnxSession if resolved is HOST else OnnxIoBindingSession
        sessions = {
            name: session_class(engine.graph(name), _options(threads), resolved) for name in GRAPHS
        }
        super().__init__(NAME, engine, resolved, sessions)


class OnnxSession:
    """A graph's session on the host."""

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, device: Device) -> None:
        self._session = _session(path, options, device)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs: dict[str, np.dtype] = {}
        for value in self._session.get_outputs():
            if value.type not in DTYPES:
                raise EngineError(
                    f"{path}: {value.name} is {value.type}; expected one of {', '.join(DTYPES)}",
                    "export the checkpoint again",
                )
            self.outputs[value.name] = DTYPES[value.type]

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        try:
            self._run(inputs, outputs)
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise BackendError(
                f"ONNX Runtime failed to run a graph: {error}", "export the checkpoint again"
            ) from error

    def _run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        """Inputs are read in place. Outputs, a few new keys and values, are copied: that takes a
        third of the time of binding them."""
        feed = {name: np.asarray(array) for name, array in inputs.items()}
        results = self._session.run(list(outputs), feed)
        for array, values in zip(outputs.values(), results):
            np.asarray(array)[...] = values


class OnnxIoBindingSession(OnnxSession):
    """A graph's session on a GPU, with inputs and outputs in GPU memory (IO binding)."""

    def _run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]) -> None:
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                device = array.device
                bind(name, device.kind, device.index, array.dtype, array.shape, array.address)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def resolve_device(name: str) -> Device:
    """Return the device that ``name`` denotes (see DeviceSpec.parse).

    Raises BackendError when this ONNX Runtime has no execution provider for it.
    """
    spec = DeviceSpec.parse(name)
    available = onnxruntime.get_available_providers()
    if PROVIDERS[spec.kind] not in available:
        raise BackendError(
            f"device {name!r} needs {PROVIDERS[spec.kind]}, but this ONNX Runtime has only "
            f"{', '.join(available)}",
            "install onnxruntime-gpu instead of onnxruntime, or use cpu",
        )
    return HOST if spec.kind == "cpu" else OrtDevice(spec.index)


def supply_linked_data(options: onnxruntime.SessionOptions, graph: Path) -> mmap.mmap | None:
    """Let a graph be loaded whose external data are a symbolic link to another folder.

    Folders that the Hugging Face hub downloads can have such links, and ONNX Runtime refuses them:
    they lead outside of the graph's folder. The files are those of the manifest (``check_files``).

    Args:
        options: The options of the graph's session.
        graph: The ONNX file; its external data, if any, are ``<name>.data`` next to it.

    Returns:
        The mapped data, to be kept until the session is created; None if there is nothing to do.

    Raises:
        EngineError: The data cannot be read, or this ONNX Runtime cannot be given them.
    """
    data = graph.with_suffix(".data")
    try:
        if not data.exists() or data.resolve().parent == graph.resolve().parent:
            return None
        with data.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise EngineError(f"{data} is unreadable: {reason_of(error)}") from error
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise EngineError(
            f"{data} is a symbolic link to another folder, which this ONNX Runtime refuses",
            f"update onnxruntime, or copy the files: cp -rL {graph.parent} COPY",
        )
    options.add_external_initializers_from_files_in_memory([data.name], [mapped], [len(mapped)])
    return mapped


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (int(limit) if limit.isdigit() else 0)
    # Each graph has its own thread pool; an idle one must not keep cores busy by spinning.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = QUIET
    return options


def _session(
    path: Path, options: onnxruntime.SessionOptions, device: Device
) -> onnxruntime.InferenceSession:
    provider = PROVIDERS[device.kind]
    # TF32 would change the results of a float32 engine.
    settings = {} if device.kind == "cpu" else {"device_id": device.index, "use_tf32": 0}
    data = supply_linked_data(options, path)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, [(provider, settings)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise EngineError(
            f"{path}: ONNX Runtime cannot load it: {error}", "export the checkpoint again"
        ) from error
    finally:
        del data
    if provider not in session.get_providers():  # ONNX Runtime falls back to the CPU silently
        raise BackendError(
            f"ONNX Runtime could not start {provider} on device {device}",
            "install the versions of CUDA and cuDNN that onnxruntime-gpu requires, or use cpu",
        )
    return session
