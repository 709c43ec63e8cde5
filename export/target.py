"""Targets: the machines that engines are made for, one YAML each in export/targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llava_st_ros.errors import ConfigError

FOLDER = Path(__file__).parent / "targets"

Version = tuple[int, int]  # major, minor


@dataclass(frozen=True)
class Bounds:
    """How far an engine may be from the reference; see ``export.proof.Proof`` for the measures."""

    relative: float
    divergence: float
    equal_ids: float
    viou_loss: float = math.inf


@dataclass(frozen=True)
class Target:
    """``backend`` and ``device`` run the engines; ``precisions`` gives each one's bounds, the
    first being the default.

    ``boards`` are those of boards.yaml that it stands for. For TensorRT: the least version that
    builds for it, the GPU's compute capability ("8.7", or "" for any), and the scratch memory
    that a layer may use, GiB.
    """

    name: str
    backend: str
    device: str
    precisions: Mapping[str, Bounds]
    boards: tuple[str, ...] = ()
    tensorrt: Version | None = None
    compute_capability: str = ""
    workspace: float = 0.0

    def bounds(self, precision: str) -> Bounds:
        """Raises ConfigError for a precision that the target does not take."""
        if precision not in self.precisions:
            raise ConfigError(
                f"precision {precision!r} for target {self.name}"
                f"; expected one of {', '.join(self.precisions)}",
            )
        return self.precisions[precision]


def target_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_target(name: str) -> Target:
    """A target by its name. Raises ConfigError."""
    if name not in target_names():
        raise ConfigError(f"target {name!r}; expected one of {', '.join(target_names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    precisions = {
        precision: Bounds(**{name: float(value) for name, value in bounds.items()})
        for precision, bounds in values["precisions"].items()
    }
    version = values.get("tensorrt")
    return Target(
        name,
        values["backend"],
        values["device"],
        precisions,
        tuple(values.get("boards", ())),
        parse_version(version) if version else None,
        values.get("compute_capability", ""),
        float(values.get("workspace", 0)),
    )


def parse_version(text: str) -> Version:
    """Of "10.3" and of "10.16.1.11"."""
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
