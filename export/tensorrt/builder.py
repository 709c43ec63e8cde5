"""TensorRT engines of exported graphs, by the official Python API.

Written against TensorRT 10.3 to 11 and run here by ``tensorrt_rtx``, whose builder needs no GPU.
Networks are strongly typed: the precision is that of the ONNX file, nothing is chosen at the build.
What a version lacks is asked for by ``hasattr``, never by its number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.engine.tensorrt_api import error_logger, load_plugins
from llava_st_ros.errors import EngineError
from llava_st_ros.export.tensorrt.profiles import Profile


@dataclass(frozen=True)
class BuildSettings:
    """How to build.

    ``workspace`` bounds the scratch memory that a layer may use, bytes. ``timing_cache`` is a file
    that keeps what was timed for the next build. ``plugins`` is the library of the plugins that a
    graph names. ``version_compatible`` and ``hardware_compatible`` engines run on later versions
    and on other GPUs (from Ampere on), at some loss of speed.
    ``compute_capabilities`` ("SM89") are those that an engine is built for ahead of time, which
    only TensorRT for RTX can; empty: the GPU that is there.
    """

    workspace: int = 2 << 30
    timing_cache: Path | None = None
    plugins: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()


def build_engine(
    graph: Path,
    out: Path,
    profiles: Sequence[Profile],
    settings: BuildSettings,
    tensorrt: ModuleType,
    on_step: Callable[[str, float], None] = lambda phase, share: None,
) -> None:
    """Build the ONNX file ``graph`` into the engine file ``out``.

    ``on_step`` is told the phase at work and the share of the whole that is done; it may be called
    from TensorRT's threads. Whatever it raises ends the build. What was timed until then is kept.
    Raises EngineError with TensorRT's own words where it cannot parse or build.
    """
    logger = error_logger(tensorrt)
    builder = tensorrt.Builder(logger)
    if settings.plugins is not None:
        load_plugins(builder.get_plugin_registry(), settings.plugins, logger)
    network = builder.create_network(_strongly_typed(tensorrt))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(
            f"{graph}: TensorRT {tensorrt.__version__} does not take it: {said}"
            "; expected operators that it knows, plugins loaded",
            "load the plugin library first, or export for this version",
        )
    config = builder.create_builder_config()
    _configure(config, settings, tensorrt)
    for profile in profiles:
        _add_profile(builder, config, network, profile, graph)
    monitor = _monitor(tensorrt, on_step)  # must outlive the build
    config.progress_monitor = monitor
    cache = _read_timing_cache(config, settings.timing_cache)
    serialized = builder.build_serialized_network(network, config)
    try:
        if monitor.stopped_by is not None:
            raise monitor.stopped_by
        if serialized is None:
            raise EngineError(
                f"{graph}: TensorRT {tensorrt.__version__} built nothing: {logger.said}"
                "; expected an engine",
                "give it more workspace, or another target",
            )
        with atomic_file(out) as part:
            part.write_bytes(serialized)
    finally:
        if cache is not None and settings.timing_cache is not None:
            # An engine is not lost for want of what the next one would be quicker with.
            with suppress(OSError), atomic_file(settings.timing_cache) as part:
                part.write_bytes(cache.serialize())


def _strongly_typed(tensorrt: ModuleType) -> int:
    """Creation flags; from 11 on every network is strongly typed and the flag may be gone."""
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(config: Any, settings: BuildSettings, tensorrt: ModuleType) -> None:
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, settings.workspace)
    # On unless asked off, and float32 products would be of TF32's ten bits.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
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
            f"engines for {', '.join(wanted)} by TensorRT {tensorrt.__version__}"
            "; expected TensorRT for RTX, which alone builds ahead of time",
            "build on the GPU that is to run them",
        )
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        capability = getattr(tensorrt.ComputeCapability, name, None)
        if capability is None:
            raise EngineError(
                f"compute capability {name!r}; expected one that TensorRT names, as SM89"
            )
        config.set_compute_capability(capability, index)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile, graph: Path) -> None:
    found = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    if set(found) != set(profile):
        odd = ", ".join(sorted(set(found) ^ set(profile)))
        raise EngineError(
            f"{graph}: other inputs ({odd}); expected those of this version", "export again"
        )
    made = builder.create_optimization_profile()
    for name, sizes in profile.items():
        fixed = tuple(found[name].shape)
        wrong = any(
            len(shape) != len(fixed) or any(b not in (-1, s) for s, b in zip(shape, fixed))
            for shape in sizes
        )
        if wrong:
            raise EngineError(
                f"{graph}: {name} {list(fixed)} for sizes {list(map(list, sizes))}"
                "; expected sizes that fit the graph",
                "export again: graph and configuration are of two models",
            )
        made.set_shape(name, *sizes)
    config.add_optimization_profile(made)


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    """The cache that the build will use and add to; None where none is wanted. A file that is
    damaged or another device's is begun anew: it holds nothing that cannot be timed again."""
    if path is None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _monitor(tensorrt: ModuleType, on_step: Callable[[str, float], None]) -> Any:
    class Monitor(tensorrt.IProgressMonitor):
        """The share of the whole, from the phases within phases that TensorRT counts."""

        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._lock = threading.Lock()
            # Phases at work, outer before inner: what a step of one is of the whole, steps done.
            self._step: dict[str, float] = {}
            self._done: dict[str, int] = {}
            self._share = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._kept(), self._lock:
                whole = self._step.get(parent_phase, 0.0) if parent_phase else 1.0
                self._step[phase_name] = whole / max(num_steps, 1)
                self._done[phase_name] = 0
                self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._kept(), self._lock:
                self._done[phase_name] = step + 1
                self._tell(phase_name)
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            with self._kept(), self._lock:
                self._step.pop(phase_name, None)
                self._done.pop(phase_name, None)
                self._tell(phase_name)

        def _tell(self, phase: str) -> None:
            share = sum(self._done[name] * size for name, size in self._step.items())
            # Phases come and go within one step of another: never backwards.
            self._share = max(self._share, min(share, 1.0) if self._step else 1.0)
            if self.stopped_by is None:
                on_step(phase, self._share)

        @contextmanager
        def _kept(self) -> Iterator[None]:
            """An exception must not pass through TensorRT, whose functions call these."""
            try:
                yield
            except BaseException as error:
                self.stopped_by = error

    return Monitor()
