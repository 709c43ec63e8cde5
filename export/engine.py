"""TensorRT engines of exported graphs, by the official Python API.

Written against TensorRT 10.3 to 11 and run here by ``tensorrt_rtx``, whose builder needs no GPU.
Networks are strongly typed: the precision is that of the ONNX file, nothing is chosen at the build.
What a version lacks is asked for by ``hasattr``, never by its number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.profiles import Profile
from llava_st_ros.whole_files import whole_file

RUNTIMES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    ``workspace`` bounds the scratch memory that a layer may use, bytes. ``timing_cache`` is a file
    that keeps what was timed for the next build. ``version_compatible`` and ``hardware_compatible``
    engines run on later versions and on other GPUs (from Ampere on), at some loss of speed.
    ``compute_capabilities`` ("SM89") are those that an engine is built for ahead of time, which
    only TensorRT for RTX can; empty: the GPU that is there.
    """

    workspace: int = 2 << 30
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()


def load_tensorrt(name: str = "") -> ModuleType:
    """The installed TensorRT, or the one named (of RUNTIMES). Raises BackendError."""
    for candidate in (name,) if name else RUNTIMES:
        try:
            return importlib.import_module(candidate)
        except ImportError:
            continue
    raise BackendError(
        f"no {name or ' nor '.join(RUNTIMES)}",
        "TensorRT's Python package",
        "install it: JetPack brings tensorrt; elsewhere pip install tensorrt or tensorrt-rtx-cu13",
    )


def build_engine(
    graph: Path,
    out: Path,
    profiles: Sequence[Profile],
    settings: BuildSettings,
    tensorrt: ModuleType,
    on_step: Callable[[str, float], None] = lambda phase, share: None,
) -> None:
    """Build the ONNX file ``graph`` into the engine file ``out``.

    ``on_step`` is told the phase at work and the share of it that is done; it may be called from
    TensorRT's threads. Raises EngineError with TensorRT's own words where it cannot parse or build.
    """
    logger = _logger(tensorrt)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(_strongly_typed(tensorrt))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(
            f"{graph}: TensorRT {tensorrt.__version__} does not take it: {said}",
            "operators that it knows, plugins loaded",
            "load the plugin library first, or export for this version",
        )
    config = builder.create_builder_config()
    _configure(config, settings, tensorrt)
    for profile in profiles:
        _add_profile(builder, config, network, profile, graph)
    monitor = _monitor(tensorrt, on_step)  # must outlive the build
    config.progress_monitor = monitor
    cache = _read_timing_cache(config, settings.timing_cache)
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise EngineError(
            f"{graph}: TensorRT {tensorrt.__version__} built nothing: {logger.said}",
            "an engine",
            "give it more workspace, or another target",
        )
    with whole_file(out) as part:
        part.write_bytes(serialised)
    if cache is not None and settings.timing_cache is not None:
        with whole_file(settings.timing_cache) as part:
            part.write_bytes(cache.serialize())


def _strongly_typed(tensorrt: ModuleType) -> int:
    """Creation flags; from 11 on every network is strongly typed and the flag may be gone."""
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(config: Any, settings: BuildSettings, tensorrt: ModuleType) -> None:
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.version_compatible:
        config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
    wanted = settings.compute_capabilities
    if not wanted:
        return
    if not hasattr(config, "set_compute_capability"):
        raise EngineError(
            f"engines for {', '.join(wanted)} by TensorRT {tensorrt.__version__}",
            "TensorRT for RTX, which alone builds ahead of time",
            "build on the GPU that is to run them",
        )
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        capability = getattr(tensorrt.ComputeCapability, name, None)
        if capability is None:
            raise EngineError(
                f"compute capability {name!r}", "one that TensorRT names, as SM89", "correct it"
            )
        config.set_compute_capability(capability, index)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile, graph: Path) -> None:
    found = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    if set(found) != set(profile):
        odd = ", ".join(sorted(set(found) ^ set(profile)))
        raise EngineError(f"{graph}: other inputs ({odd})", "those of this version", "export again")
    made = builder.create_optimization_profile()
    for name, sizes in profile.items():
        fixed = tuple(found[name].shape)
        wrong = any(
            len(shape) != len(fixed) or any(b not in (-1, s) for s, b in zip(shape, fixed))
            for shape in sizes
        )
        if wrong:
            raise EngineError(
                f"{graph}: {name} {list(fixed)} for sizes {list(map(list, sizes))}",
                "sizes that fit the graph",
                "export again: graph and configuration are of two models",
            )
        made.set_shape(name, *sizes)
    config.add_optimization_profile(made)


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    """The cache that the build will use and add to; None where none is wanted."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _logger(tensorrt: ModuleType) -> Any:
    class Logger(tensorrt.ILogger):
        """Keeps the last error for the one line that the caller is told."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.said = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.said = message

    return Logger()


def _monitor(tensorrt: ModuleType, on_step: Callable[[str, float], None]) -> Any:
    class Monitor(tensorrt.IProgressMonitor):
        """Shares of the phases, as TensorRT counts them."""

        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            on_step(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_step(phase_name, (step + 1) / max(self.steps.get(phase_name, 1), 1))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            on_step(phase_name, 1.0)

    return Monitor()
