"""What TensorRT engines are tied to, and whether this machine has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from llava_st_ros.engine.cuda_device import CudaDevice, driver_version
from llava_st_ros.engine.manifest import REBUILD, Manifest, sha256_of
from llava_st_ros.errors import EngineError

# Set to "yes" in a manifest's machine by who built engines so: they run with later versions of the
# same major TensorRT, or on every GPU from Ampere on.
VERSION_COMPATIBLE = "version_compatible"
HARDWARE_COMPATIBLE = "hardware_compatible"
AMPERE = (8, 0)
NONE = "none"


def describe_machine(
    tensorrt: ModuleType, device: CudaDevice, library: Path | None = None
) -> dict[str, str]:
    """This machine as a manifest names it: ``runtime`` (the Python package), versions of TensorRT
    and of the CUDA that the driver runs, the GPU with its compute capability, and the SHA-256 of
    the plugin library. Raises BackendError where CUDA does not answer, EngineError for a library
    that cannot be read."""
    machine = {
        "runtime": tensorrt.__name__,
        "tensorrt": tensorrt.__version__,
        "cuda": _dotted(driver_version()),
        "gpu": device.name,
        "compute_capability": _dotted(device.compute_capability),
    }
    if library is None:
        return machine
    try:
        return {**machine, "plugins": sha256_of(library)}
    except OSError as error:
        raise EngineError(
            f"{library}: {error.strerror}; expected the plugin library", "build the package again"
        ) from error


def check_machine(folder: Path, manifest: Manifest, here: Mapping[str, str]) -> None:
    """Raise EngineError unless the engines of an engine directory run on a machine."""
    if not manifest.machine:
        raise EngineError(f"{folder}: engines of an unknown machine; expected its name", REBUILD)
    if found := list(differences(manifest.machine, here)):
        raise EngineError(
            f"{folder}: its engines were built for {', '.join(found)}"
            "; expected the machine that they were built on",
            f"build them here with `llava-st export --checkpoint DIR --target {manifest.target} "
            f"--precision {manifest.precision} --out {folder}`",
        )


def differences(built: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    """For each thing that keeps engines from a machine what they were built for and what is here.

    A newer driver keeps none.
    """
    marks = (VERSION_COMPATIBLE, HARDWARE_COMPATIBLE)
    for item in (*built, *(item for item in here if item not in built)):
        ours, theirs = here.get(item, NONE), built.get(item, NONE)
        if item in marks or ours == theirs or _runs(item, built, here):
            continue
        yield f"{item.replace('_', ' ')} {theirs} (here {ours})"


def _runs(item: str, built: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Whether engines run here although the item differs."""
    theirs, ours = _numbers(built.get(item, "")), _numbers(here.get(item, ""))
    if item == "cuda":
        return ours >= theirs
    if item == "tensorrt" and VERSION_COMPATIBLE in built:
        return ours[:1] == theirs[:1] and ours >= theirs
    if item in ("gpu", "compute_capability") and HARDWARE_COMPATIBLE in built:
        return _numbers(here.get("compute_capability", "")) >= AMPERE
    return False


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
