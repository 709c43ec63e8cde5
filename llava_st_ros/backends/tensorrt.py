"""TensorRT over the engines of an engine directory, on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Cache
from llava_st_ros.backends.engine_files import EngineFiles
from llava_st_ros.backends.graph_backend import GRAPHS, GraphBackend, PromptRows
from llava_st_ros.engine.cuda_device import CudaDevice
from llava_st_ros.engine.machine import VERSION_COMPATIBLE, check_machine, describe_machine
from llava_st_ros.engine.session import Runtime, Session
from llava_st_ros.engine.tensorrt_api import RUNTIMES, load_tensorrt
from llava_st_ros.errors import BackendError, EngineError

NAME = "tensorrt"


class TensorRTBackend(GraphBackend):
    """``library`` holds the engines' plugins; the directory's own unless given. With
    ``cuda_graphs`` the vision tower runs as a CUDA graph, which spares a slow CPU its launches.

    Raises EngineError for engines that were built for another machine or that TensorRT does not
    load, BackendError where TensorRT or the device is not there.
    """

    def __init__(
        self,
        engine: EngineFiles,
        *,
        device: str = "cuda",
        library: Path | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        where = check_device(device)
        manifest, library = engine.manifest, library or engine.library
        built_with = manifest.machine.get("runtime", RUNTIMES[0])
        if built_with not in RUNTIMES:
            raise EngineError(
                f"{engine.folder}: engines of {built_with}; expected of {' or '.join(RUNTIMES)}",
                "use the version that made it, or export again",
            )
        tensorrt = load_tensorrt(built_with)
        check_machine(engine.folder, manifest, describe_machine(tensorrt, where, library))
        host_code = VERSION_COMPATIBLE in manifest.machine
        runtime = Runtime(tensorrt, library=library, host_code=host_code)
        sessions = {
            name: Session(
                runtime, engine.graph(name), where, record=cuda_graphs and name == "vision"
            )
            for name in GRAPHS
        }
        scratch = where.empty((max(s.scratch_size for s in sessions.values()),), np.uint8)
        for session in sessions.values():
            session.use_scratch(scratch)
        super().__init__(NAME, engine, where, sessions)
        profiles = sessions["language"].profiles
        self._most_ids = max(profile["ids"][2][0] for profile in profiles)
        self._most_rows = max(min(p["ids"][2][0], p["rows"][2][0]) for p in profiles)

    def prefill(self, embeddings: PromptRows, cache: Cache) -> np.ndarray:
        """In pieces, where the prompt is longer than the engine takes at once."""
        return in_pieces(super().prefill, embeddings, self._most_ids, cache)[-1]

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        """In pieces, where the tokens are more than the engine takes at once."""
        return np.concatenate(in_pieces(super().extend, token_ids, self._most_rows, cache))


def in_pieces(
    append: Callable[[Any, Cache], np.ndarray], positions: Any, most: int, cache: Cache
) -> list[np.ndarray]:
    """What ``append`` gives for each piece of at most so many positions. An error leaves the cache
    as it was."""
    before = cache.length
    try:
        return [
            append(positions[start : start + most], cache)
            for start in range(0, max(len(positions), 1), most)
        ]
    except BackendError:
        cache.truncate(before)
        raise


def check_device(name: str) -> CudaDevice:
    """ "cuda" or "cuda:1". Raises BackendError where there is no such GPU."""
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise BackendError(
            f"device {name!r} for TensorRT; expected cuda or cuda:N", "choose one, or leave it out"
        )
    return CudaDevice(int(index or 0))
