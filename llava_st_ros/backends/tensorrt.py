"""The TensorRT backend: an engine directory's engines on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Cache
from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.graph_backend import GRAPHS, GraphBackend, PromptInputs
from llava_st_ros.engine.cuda_device import CudaDevice
from llava_st_ros.engine.device import DeviceSpec
from llava_st_ros.engine.machine import VERSION_COMPATIBLE, check_machine, describe_machine
from llava_st_ros.engine.profiles import Profile
from llava_st_ros.engine.session import EngineSession, TensorRTRuntime
from llava_st_ros.engine.tensorrt_api import RUNTIMES, load_tensorrt
from llava_st_ros.errors import BackendError, EngineError

NAME = "tensorrt"


class TensorRTBackend(GraphBackend):
    """Runs an engine directory in TensorRT.

    Args:
        engine: The engine directory.
        device: "cuda" or "cuda:N".
        library: The engines' plugin library; by default the one in the directory.
        cuda_graphs: Run the vision tower as a CUDA graph, which saves launch time on a slow CPU.

    Attributes:
        max_prompt: Maximum number of positions in one call of ``prefill``.
        max_draft: Maximum number of positions in one call of ``extend``.

    Raises:
        EngineError: The engines were built for another machine, or TensorRT cannot load them.
        BackendError: TensorRT or the device is not available.
    """

    def __init__(
        self,
        engine: EngineFiles,
        *,
        device: str = "cuda",
        library: Path | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        gpu = resolve_device(device)
        manifest, library = engine.manifest, library or engine.library
        built_with = manifest.machine.get("runtime", RUNTIMES[0])
        if built_with not in RUNTIMES:
            raise EngineError(
                f"{engine.folder} has engines for {built_with}; expected {' or '.join(RUNTIMES)}",
                "load it with the version that exported it, or export the checkpoint again",
            )
        tensorrt = load_tensorrt(built_with)
        check_machine(engine.folder, manifest, describe_machine(tensorrt, gpu, library))
        host_code = VERSION_COMPATIBLE in manifest.machine
        runtime = TensorRTRuntime(tensorrt, library=library, host_code=host_code)
        sessions = {
            name: EngineSession(
                runtime, engine.graph(name), gpu, cuda_graphs=cuda_graphs and name == "vision"
            )
            for name in GRAPHS
        }
        workspace = gpu.empty((max(s.workspace_size for s in sessions.values()),), np.uint8)
        for session in sessions.values():
            session.set_workspace(workspace)
        super().__init__(NAME, engine, gpu, sessions)
        profiles = sessions["language"].profiles
        self.max_prompt = max(profile["ids"].max[0] for profile in profiles)
        self.max_draft = max(min(p["ids"].max[0], p["rows"].max[0]) for p in profiles)
        self.max_positions = min(self.max_positions, cached_positions(profiles))

    def prefill(self, embeddings: PromptInputs, cache: Cache) -> np.ndarray:
        return append_in_chunks(super().prefill, embeddings, self.max_prompt, cache)[-1]

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        return np.concatenate(append_in_chunks(super().extend, token_ids, self.max_draft, cache))


def cached_positions(profiles: Sequence[Profile]) -> int:
    """Return the largest cache that the language graph's profiles accept, in positions."""
    return max(
        sizes.max[0] for p in profiles for name, sizes in p.items() if name.startswith("past_key_")
    )


def append_in_chunks(
    append: Callable[[Any, Cache], np.ndarray], positions: Any, chunk: int, cache: Cache
) -> list[np.ndarray]:
    """Call ``append`` for chunks of at most ``chunk`` positions and return its results.

    A BackendError leaves the cache unchanged.
    """
    length = cache.length
    try:
        return [
            append(positions[start : start + chunk], cache)
            for start in range(0, max(len(positions), 1), chunk)
        ]
    except BackendError:
        cache.truncate(length)
        raise


def resolve_device(name: str) -> CudaDevice:
    """Return the GPU that ``name`` denotes (see DeviceSpec.parse).

    Raises BackendError when it is not a GPU, or this machine has no such GPU.
    """
    spec = DeviceSpec.parse(name)
    if spec.kind != "cuda":
        raise BackendError(f"TensorRT does not run on device {name!r}; expected cuda or cuda:N")
    return CudaDevice(spec.index)
