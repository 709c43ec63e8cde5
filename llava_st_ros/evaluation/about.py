"""What ran: the facts that a reader of results needs in order to repeat or compare them."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import llava_st_ros
from llava_st_ros.backends import model_checksum, runtime_and_device

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
    model_sha256: str = "",
    **more: Any,
) -> Mapping[str, Any]:
    """Return what ran, as plain values, without names of the host, of users or of home folders.

    "seconds" and "finished" differ between two runs of the same command; nothing else does.

    Args:
        mode: What was evaluated, and how: "simulated", "bag, offline", ...
        model: Checkpoint or engine directory.
        backend: Its runtime; empty for the model's own.
        device: Its device; empty for the runtime's default.
        seconds: Wall time.
        model_sha256: The model's checksum, if it was computed before.
        more: Further facts of this kind of run.
    """
    runtime, device = runtime_and_device(model, backend, device)
    facts = {
        "mode": mode,
        "model": str(model),
        "model_sha256": model_sha256 or model_checksum(model),
        "backend": runtime,
        "device": device,
        **more,
        "versions": _versions(runtime),
        "machine": _machine(device),
    }
    return _about(facts, seconds)


def about_node(
    mode: str, node: str, facts: Mapping[str, str], *, seconds: float, **more: Any
) -> Mapping[str, Any]:
    """Return what ran, if a running node answered: its model is known by its diagnostics only.

    Args:
        mode: What was evaluated, and how.
        node: Fully qualified name of the node.
        facts: The model's values in its diagnostics.
        seconds: Wall time.
        more: Further facts of this kind of run.
    """
    names = ("model", "backend", "device", "precision")
    named = {name: facts.get(name, "unknown") for name in names}
    found = {
        "mode": mode,
        "node": node,
        **named,
        **more,
        "versions": {"llava_st_ros": llava_st_ros.__version__},
    }
    return _about(found, seconds)


def _about(facts: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
    """Return facts without home folders, with the command and its time."""
    public = {
        name: _without_home(value) if isinstance(value, str) else value
        for name, value in facts.items()
    }
    return {
        "command": shlex.join(["llava-st", *map(_without_home, sys.argv[1:])]),
        **public,
        "seconds": round(seconds, 1),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _without_home(text: str) -> str:
    """Return an argument with "~" for the home folder, whose name is a user's.

    >>> _without_home(f"--out={Path.home() / 'runs'}")
    '--out=~/runs'
    """
    home = str(Path.home())
    if home == "/":
        return text
    return re.sub(rf"(?<![^\s=:,]){re.escape(home)}(?=/|$)", "~", text)


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


def _machine(device: str) -> dict[str, Any]:
    machine = {
        "system": f"{_system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(sched_getaffinity(0)),
    }
    if device.startswith("cuda"):
        machine["gpu"] = _gpu(device)
    return machine


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _gpu(device: str) -> str:
    """Return the GPU's name and driver; "unknown" without nvidia-smi, as on a Jetson."""
    number = device.partition(":")[2] or "0"
    query = ["nvidia-smi", "-i", number, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
