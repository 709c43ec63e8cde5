"""Build one TensorRT engine of one ONNX file, with TensorRT's Python API.

This module is independent of targets, models and this project's graphs; ``engines`` builds all
engines of a model with it. Written for TensorRT 10.3 to 11 and tested with ``tensorrt_rtx``, whose
builder needs no GPU. Networks are strongly typed: the ONNX file sets the precision. Features that
some versions lack are detected by attribute, not by version number.
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
    """Settings of a build.

    Attributes:
        workspace: Scratch memory that a layer may use, bytes.
        timing_cache: File that keeps kernel timings between builds.
        plugins: Library of the plugins that the graph uses.
        version_compatible: Build an engine that later versions run too, at some loss of speed.
        hardware_compatible: Build an engine that other GPUs from Ampere on run too, at some loss
            of speed.
        compute_capabilities: Compute capabilities ("SM89") to build for ahead of time, with
            TensorRT for RTX only; empty: this machine's GPU.
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
    """Build an engine file of an ONNX file.

    Args:
        graph: ONNX file.
        out: Engine file to write.
        profiles: Optimization profiles of the graph.
        settings: Settings of the build.
        tensorrt: The TensorRT module.
        on_step: Called with the current phase and the share of the build that is done, possibly
            from TensorRT's threads. An exception from it stops the build and is raised again;
            timings so far are kept.

    Raises:
        EngineError: TensorRT cannot parse or build the graph; the message contains its error.
    """
    logger = error_logger(tensorrt)
    builder = tensorrt.Builder(logger)
    if settings.plugins is not None:
        load_plugins(builder.get_plugin_registry(), settings.plugins, logger)
    network = builder.create_network(_strongly_typed(tensorrt))
    parser = _parse(graph, network, logger, tensorrt)  # holds weights until the build ends
    config = builder.create_builder_config()
    _configure(config, settings, tensorrt)
    for profile in profiles:
        _add_profile(builder, config, network, profile, graph)
    monitor = _monitor(tensorrt, on_step)  # must outlive the build
    config.progress_monitor = monitor
    cache = _read_timing_cache(config, settings.timing_cache)
    serialized = builder.build_serialized_network(network, config)
    del parser
    try:
        if monitor.stopped_by is not None:
            raise monitor.stopped_by
        if serialized is None:
            raise EngineError(
                f"{graph}: TensorRT {tensorrt.__version__} cannot build it: {logger.last_error}",
                "allow more workspace, or choose another target",
            )
        with atomic_file(out) as part:
            part.write_bytes(serialized)
    finally:
        if cache is not None and settings.timing_cache is not None:
            # An engine that was built is not lost if its timings cannot be saved.
            with suppress(OSError), atomic_file(settings.timing_cache) as part:
                part.write_bytes(cache.serialize())


def _parse(graph: Path, network: Any, logger: Any, tensorrt: ModuleType) -> Any:
    """Parse an ONNX file into a network; returns the parser."""
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(
            f"{graph}: TensorRT {tensorrt.__version__} cannot parse it: {errors}",
            "pass the plugin library that it needs, or export for this version",
        )
    return parser


def _strongly_typed(tensorrt: ModuleType) -> int:
    """Network creation flags. From version 11 every network is strongly typed, and the flag may
    not exist."""
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(config: Any, settings: BuildSettings, tensorrt: ModuleType) -> None:
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, settings.workspace)
    # On by default; it would round float32 products to TF32's ten bits.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
    capabilities = settings.compute_capabilities
    if not capabilities:
        return
    if not hasattr(config, "set_compute_capability"):
        raise EngineError(
            f"TensorRT {tensorrt.__version__} cannot build ahead of time for "
            f"{', '.join(capabilities)}",
            "use TensorRT for RTX, or build on the GPU that will run the engine",
        )
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        capability = getattr(tensorrt.ComputeCapability, name, None)
        if capability is None:
            raise EngineError(
                f"TensorRT has no compute capability {name!r}; expected a name such as SM89"
            )
        config.set_compute_capability(capability, index)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile, graph: Path) -> None:
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    if set(inputs) != set(profile):
        names = ", ".join(sorted(set(inputs) ^ set(profile)))
        raise EngineError(
            f"{graph}: inputs differ from this version's graphs: {names}", "export again"
        )
    optimization_profile = builder.create_optimization_profile()
    for name, shapes in profile.items():
        shape = tuple(inputs[name].shape)
        if not all(_matches(shape, required) for required in shapes):
            raise EngineError(
                f"{graph}: input {name} {list(shape)} does not fit the config's shapes "
                f"{list(map(list, shapes))}",
                "export again: graph and config belong to two models",
            )
        optimization_profile.set_shape(name, *shapes)
    config.add_optimization_profile(optimization_profile)


def _matches(shape: Sequence[int], required: Sequence[int]) -> bool:
    """Whether an input's ``shape``, -1 for dynamic sizes, admits a ``required`` shape."""
    return len(shape) == len(required) and all(s in (-1, r) for s, r in zip(shape, required))


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    """Set the build's timing cache and return it; None without a path.

    A file that is corrupt or from another device is replaced by an empty cache.
    """
    if path is None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _monitor(tensorrt: ModuleType, on_step: Callable[[str, float], None]) -> Any:
    progress_monitor: Any = tensorrt.IProgressMonitor

    class Monitor(progress_monitor):
        """Computes the share of the build from TensorRT's nested phases."""

        def __init__(self) -> None:
            progress_monitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._lock = threading.Lock()
            # Active phases, outer before inner: share of the build per step, and steps done.
            self._step: dict[str, float] = {}
            self._done: dict[str, int] = {}
            self._share = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._catch(), self._lock:
                share = self._step.get(parent_phase, 0.0) if parent_phase else 1.0
                self._step[phase_name] = share / max(num_steps, 1)
                self._done[phase_name] = 0
                self._report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._catch(), self._lock:
                self._done[phase_name] = step + 1
                self._report(phase_name)
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            with self._catch(), self._lock:
                self._step.pop(phase_name, None)
                self._done.pop(phase_name, None)
                self._report(phase_name)

        def _report(self, phase: str) -> None:
            share = sum(self._done[name] * size for name, size in self._step.items())
            # Several phases may run within one step of their parent: the share never decreases.
            self._share = max(self._share, min(share, 1.0) if self._step else 1.0)
            if self.stopped_by is None:
                on_step(phase, self._share)

        @contextmanager
        def _catch(self) -> Iterator[None]:
            """Keep exceptions from passing through TensorRT, which calls these methods."""
            try:
                yield
            except BaseException as error:
                self.stopped_by = error

    return Monitor()
