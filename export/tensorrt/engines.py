"""Build all TensorRT engines of a model, on the machine that will run them.

This module handles targets, GPUs and graphs: it checks the machine and the graphs' operators before
the first build, which may take long, and verifies the plugin layers after it. ``builder`` turns a
single ONNX file into an engine. A timing cache in the user's cache folder makes an interrupted
build faster when it is repeated.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import onnx

from llava_st_ros.config import ModelConfig
from llava_st_ros.engine.tensorrt_api import load_tensorrt
from llava_st_ros.errors import BackendError, EngineError
from llava_st_ros.export.plugin_names import DOMAIN, NAME
from llava_st_ros.export.target import Target, Version, parse_version
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.operators import check_operators
from llava_st_ros.export.tensorrt.profiles import profiles
from llava_st_ros.files.json_files import parse_json


def prepare_build(target: Target, plugins: Path | None = None) -> tuple[ModuleType, BuildSettings]:
    """Check that this machine can build for a target.

    Args:
        target: A TensorRT target.
        plugins: Plugin library with the packer's region attention.

    Returns:
        The TensorRT module to build with, and the settings of the build.

    Raises:
        BackendError: TensorRT, cuda-bindings or a GPU is missing or does not match the target.
    """
    assert target.tensorrt is not None
    # TensorRT for RTX has version numbers of its own, runs on desktops only and loads no plugins.
    rtx_allowed = not target.compute_capability and plugins is None
    tensorrt = load_tensorrt("" if rtx_allowed else "tensorrt")
    required = ".".join(map(str, target.tensorrt))
    if tensorrt.__name__ == "tensorrt" and parse_version(tensorrt.__version__) < target.tensorrt:
        raise BackendError(
            f"TensorRT is {tensorrt.__version__}; target {target.name} needs {required} or later",
            "upgrade TensorRT, or choose a target of this version",
        )
    name, capability = _gpu()
    if target.compute_capability not in ("", capability):
        raise BackendError(
            f"this machine's {name} has compute capability {capability}; "
            f"target {target.name} needs {target.compute_capability}",
            "export on the board that will run the engines, or choose this machine's target",
        )
    return tensorrt, BuildSettings(
        workspace=int(target.workspace * 2**30),
        timing_cache=_timing_cache(tensorrt, f"{name} sm{capability}"),
        plugins=plugins,
    )


def build_engines(
    graphs: Mapping[str, Path],
    out: Path,
    config: ModelConfig,
    version: Version,
    tensorrt: ModuleType,
    settings: BuildSettings,
) -> dict[str, str]:
    """Build an engine of each graph.

    Args:
        graphs: ONNX file by graph. The packer's is transformed by ``region_attention.use_plugin``
            if ``settings`` has a plugin library, else by ``decompose``.
        out: Folder for the engine files.
        config: The model's config, for the optimization profiles.
        version: TensorRT version whose operators the graphs may use; checked before any build.
        tensorrt: The TensorRT module.
        settings: Settings of the builds.

    Returns:
        Name of the engine file by graph.

    Raises:
        EngineError: A graph has unsupported operators or cannot be built.
        OSError: An engine cannot be written.
    """
    plugins = (NAME,) if settings.plugins is not None else ()
    for path in graphs.values():
        check_operators(path, version, plugins)
    ranges, files = profiles(config), {}
    for name, path in graphs.items():
        files[name] = f"{name}.engine"
        with _progress_bar(name) as on_step:
            build_engine(path, out / files[name], ranges[name], settings, tensorrt, on_step)
        model = onnx.load(path, load_external_data=False)
        nodes = [node.name for node in model.graph.node if node.domain == DOMAIN]
        if nodes:
            _check_plugins(out / files[name], nodes, tensorrt, settings)
    return files


def missing_layers(information: str, nodes: Iterable[str]) -> list[str]:
    """Return the nodes that have no layer in an engine.

    Args:
        information: JSON of TensorRT's engine inspector. "Layers" is a list of names, or of objects
            with a "Name"; a name lists the nodes that the layer was fused from.
        nodes: Names of ONNX nodes.
    """
    layers = parse_json(information, "the engine inspector's output", EngineError)["Layers"]
    names = [layer if isinstance(layer, str) else layer["Name"] for layer in layers]
    return [n for n in nodes if not any(re.search(rf"(?<!\w){re.escape(n)}\b", x) for x in names)]


def _check_plugins(
    path: Path, nodes: list[str], tensorrt: ModuleType, settings: BuildSettings
) -> None:
    """Raise EngineError unless the engine has a layer for each plugin node."""
    from llava_st_ros.engine.session import TensorRTRuntime

    runtime = TensorRTRuntime(
        tensorrt, library=settings.plugins, host_code=settings.version_compatible
    )
    inspector = runtime.deserialize(path).create_engine_inspector()
    information = inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON)
    missing = missing_layers(information, nodes)
    if missing:
        raise EngineError(
            f"{path.name}: no layer runs the plugin {NAME} for {', '.join(missing)}",
            "export without the plugin library",
        )


def _gpu() -> tuple[str, str]:
    """Name and compute capability of this machine's GPU."""
    try:
        from llava_st_ros.engine.cuda_device import CudaDevice
    except ImportError as error:
        raise BackendError(
            f"cannot import cuda-bindings: {error}", "pip install cuda-bindings"
        ) from error
    device = CudaDevice()
    return device.name, ".".join(map(str, device.compute_capability))


def _timing_cache(tensorrt: ModuleType, gpu: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava_st_ros"
    with suppress(OSError):  # the cache is optional
        folder.mkdir(parents=True, exist_ok=True)
    name = f"{tensorrt.__name__} {tensorrt.__version__} {gpu}"
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.timing"


@contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar for one build; yields the function that updates it."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar:16}| {elapsed}{postfix}"
    with tqdm(total=1.0, desc=name, bar_format=layout, file=sys.stderr, disable=None) as bar:

        def on_step(phase: str, share: float) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(share - bar.n)

        yield on_step
