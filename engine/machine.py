"""Checks that TensorRT engines were built for this machine: versions, GPU and plugin library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from llava_st_ros.engine.cuda_device import CudaDevice, driver_version
from llava_st_ros.engine.manifest import REBUILD, Manifest
from llava_st_ros.errors import EngineError, reason_of
from llava_st_ros.files.checksums import sha256_of

# Set to "yes" in a manifest's machine when engines were built so: they also run with later versions
# of the same major TensorRT, or on every GPU from Ampere on.
VERSION_COMPATIBLE = "version_compatible"
HARDWARE_COMPATIBLE = "hardware_compatible"
AMPERE = (8, 0)
NONE = "none"


def describe_machine(
    tensorrt: ModuleType, device: CudaDevice, library: Path | None = None
) -> dict[str, str]:
    """Describe this machine as a manifest does.

    Returns:
        ``runtime`` (the Python package), ``tensorrt`` (its version), ``cuda`` (the newest version
        that the driver runs), ``gpu``, ``compute_capability`` and, with a ``library``, ``plugins``
        (its SHA-256).

    Raises:
        BackendError: A CUDA call failed.
        EngineError: The library cannot be read.
    """
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
            f"plugin library {library}: {reason_of(error)}", "build the package again"
        ) from error


def check_machine(folder: Path, manifest: Manifest, this_machine: Mapping[str, str]) -> None:
    """Raise EngineError unless the engines of an engine directory run on ``this_machine``."""
    if not manifest.machine:
        raise EngineError(f"{folder} has engines built for an unknown machine", REBUILD)
    if mismatches := list(differences(manifest.machine, this_machine)):
        raise EngineError(
            f"{folder} has engines built for another machine: {', '.join(mismatches)}",
            f"build them here with `llava-st export --checkpoint DIR --target {manifest.target} "
            f"--precision {manifest.precision} --out {folder}`",
        )


def differences(built_for: Mapping[str, str], this_machine: Mapping[str, str]) -> Iterator[str]:
    """Yield each incompatible difference between the machine of a build and this one.

    A newer driver is compatible.
    """
    flags = (VERSION_COMPATIBLE, HARDWARE_COMPATIBLE)
    for item in (*built_for, *(item for item in this_machine if item not in built_for)):
        required, local = built_for.get(item, NONE), this_machine.get(item, NONE)
        if item in flags or local == required or _is_compatible(item, built_for, this_machine):
            continue
        yield f"{item.replace('_', ' ')} {required} (here {local})"


def _is_compatible(
    item: str, built_for: Mapping[str, str], this_machine: Mapping[str, str]
) -> bool:
    """Whether engines run on this machine although the item differs."""
    required = _numbers(built_for.get(item, ""))
    local = _numbers(this_machine.get(item, ""))
    if item == "cuda":
        return local >= required
    if item == "tensorrt" and VERSION_COMPATIBLE in built_for:
        return local[:1] == required[:1] and local >= required
    if item in ("gpu", "compute_capability") and HARDWARE_COMPATIBLE in built_for:
        return _numbers(this_machine.get("compute_capability", "")) >= AMPERE
    return False


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
