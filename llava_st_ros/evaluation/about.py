"""What ran: the facts that a reader of results needs in order to repeat or compare them."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import llava_st_ros
from llava_st_ros.backends import backend_of, model_checksum

PACKAGES = {
    "torch": ("torch", "transformers"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt",),
}


def about_run(
    mode: str,
    model: Path,
    *,
    backend: str = "",
    device: str = "",
    seconds: float,
    **more: Any,
) -> Mapping[str, Any]:
    """Return what ran, as plain values.

    Args:
        mode: What was evaluated, and how: "simulated", "bag, offline", ...
        model: Checkpoint or engine directory.
        backend: Its runtime; empty for the model's own.
        device: Its device; empty for the runtime's default.
        seconds: Wall time.
        more: Further facts of this kind of run.
    """
    runtime = backend or backend_of(model)
    return {
        "command": " ".join(["llava-st", *sys.argv[1:]]),
        "mode": mode,
        "model": str(model),
        "model_sha256": model_checksum(model),
        "backend": runtime,
        "device": device or ("cuda" if runtime == "tensorrt" else "cpu"),
        **more,
        "versions": _versions(runtime),
        "machine": _machine(),
        "seconds": round(seconds, 1),
    }


def _versions(runtime: str) -> dict[str, str]:
    versions = {"llava_st_ros": llava_st_ros.__version__, "python": platform.python_version()}
    for name in ("numpy", *PACKAGES[runtime]):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if commit := _commit():
        versions["commit"] = commit
    return versions


def _commit() -> str:
    """Return the commit of a checkout, with + if files are changed; empty if it is none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    commands = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + "+" * bool(changes)


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(sched_getaffinity(0)),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
