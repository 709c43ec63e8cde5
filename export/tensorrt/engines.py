"""A model's ONNX graphs become TensorRT engines, on the machine that is to run them.

What stands against it is said before the first build, which may take long: another TensorRT, no
GPU, an operator that the version does not take. An interrupted build begins anew and goes quickly
through what it had timed: that is kept in the user's cache folder.
"""

from __future__ import annotations

import json
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
from llava_st_ros.export.graphs.region_attention import DOMAIN, NAME
from llava_st_ros.export.target import Target, Version, parse_version
from llava_st_ros.export.tensorrt.builder import BuildSettings, build_engine
from llava_st_ros.export.tensorrt.operators import check
from llava_st_ros.export.tensorrt.profiles import profiles


def prepare(target: Target, plugins: Path | None = None) -> tuple[ModuleType, BuildSettings]:
    """The TensorRT that builds for ``target`` on this machine, and how. ``plugins`` is the library
    of the packer's plugin.

    Raises BackendError where TensorRT, cuda-bindings or a GPU is missing or is not the target's.
    """
    assert target.tensorrt is not None
    # TensorRT for RTX, of versions of its own, runs on desktops alone and takes no plugins.
    any_will_do = not target.compute_capability and plugins is None
    tensorrt = load_tensorrt("" if any_will_do else "tensorrt")
    least = ".".join(map(str, target.tensorrt))
    if tensorrt.__name__ == "tensorrt" and parse_version(tensorrt.__version__) < target.tensorrt:
        raise BackendError(
            f"TensorRT {tensorrt.__version__} for target {target.name}; expected {least} or later",
            "install it, or choose a target of this version",
        )
    name, capability = _gpu()
    if target.compute_capability not in ("", capability):
        raise BackendError(
            f"{name} of compute capability {capability} for target {target.name}"
            f"; expected a GPU of {target.compute_capability}, where its engines will run",
            "export on that board, or choose this machine's target",
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
    """Build each graph's ONNX file into the folder ``out``: graph -> name of its engine file.

    ``graphs`` must be in the form that suits the ``settings``: the packer's of
    ``region_attention.as_plugin`` with a plugin library, else ``decomposed``. All are checked
    against ``version`` first. Raises EngineError, OSError.
    """
    plugins = (NAME,) if settings.plugins is not None else ()
    for path in graphs.values():
        check(path, version, plugins)
    ranges, files = profiles(config), {}
    for name, path in graphs.items():
        files[name] = f"{name}.engine"
        with _bar(name) as on_step:
            build_engine(path, out / files[name], ranges[name], settings, tensorrt, on_step)
        model = onnx.load(path, load_external_data=False)
        nodes = [node.name for node in model.graph.node if node.domain == DOMAIN]
        if nodes:
            _check_plugins(out / files[name], nodes, tensorrt, settings)
    return files


def absent_layers(information: str, nodes: Iterable[str]) -> list[str]:
    """Nodes without a layer in what TensorRT's engine inspector tells of an engine, as JSON: under
    "Layers" their names, or objects that have a "Name", of the nodes a layer was made of."""
    layers = json.loads(information)["Layers"]
    names = [layer if isinstance(layer, str) else layer["Name"] for layer in layers]
    return [n for n in nodes if not any(re.search(rf"(?<!\w){re.escape(n)}\b", x) for x in names)]


def _check_plugins(
    path: Path, nodes: list[str], tensorrt: ModuleType, settings: BuildSettings
) -> None:
    """Raises EngineError unless the engine runs the plugin for each of the nodes."""
    from llava_st_ros.engine.session import Runtime

    runtime = Runtime(tensorrt, library=settings.plugins, host_code=settings.version_compatible)
    inspector = runtime.deserialize(path).create_engine_inspector()
    told = inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON)
    absent = absent_layers(told, nodes)
    if absent:
        raise EngineError(
            f"{path.name}: no layer of {', '.join(absent)}; expected the plugin {NAME} at each",
            "export without the plugin library",
        )


def _gpu() -> tuple[str, str]:
    """Name and compute capability of the GPU that engines are built on."""
    try:
        from llava_st_ros.engine.cuda_device import CudaDevice
    except ImportError as error:
        raise BackendError(
            (str(error)) + "; expected cuda-bindings", "pip install cuda-bindings"
        ) from error
    device = CudaDevice()
    return device.name, ".".join(map(str, device.compute_capability))


def _timing_cache(tensorrt: ModuleType, gpu: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava_st_ros"
    with suppress(OSError):  # a build does without
        folder.mkdir(parents=True, exist_ok=True)
    name = f"{tensorrt.__name__} {tensorrt.__version__} {gpu}"
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.timing"


@contextmanager
def _bar(name: str) -> Iterator[Callable[[str, float], None]]:
    """A bar for one build, and what moves it."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar:16}| {elapsed}{postfix}"
    with tqdm(total=1.0, desc=name, bar_format=layout, file=sys.stderr, disable=None) as bar:

        def on_step(phase: str, share: float) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(share - bar.n)

        yield on_step
