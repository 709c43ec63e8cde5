"""Targets: the machines that engines are made for, one YAML each in export/targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from llava_st_ros.errors import ConfigError

FOLDER = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Bounds:
    """How far an engine may be from the reference; see ``export.proof.Proof`` for the measures."""

    relative: float
    divergence: float
    equal_ids: float


@dataclass(frozen=True)
class Target:
    """``backend`` and ``device`` run the engines; ``precisions`` gives each one's bounds, the
    first being the default."""

    name: str
    backend: str
    device: str
    precisions: Mapping[str, Bounds]

    def bounds(self, precision: str) -> Bounds:
        """Raises ConfigError for a precision that the target does not take."""
        if precision not in self.precisions:
            raise ConfigError(
                f"precision {precision!r} for target {self.name}",
                f"one of {', '.join(self.precisions)}",
                "choose one",
            )
        return self.precisions[precision]


def target_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_target(name: str) -> Target:
    """A target by its name. Raises ConfigError."""
    if name not in target_names():
        raise ConfigError(f"target {name!r}", f"one of {', '.join(target_names())}", "choose one")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    precisions = {
        precision: Bounds(**{f.name: float(bounds[f.name]) for f in fields(Bounds)})
        for precision, bounds in values["precisions"].items()
    }
    return Target(name, values["backend"], values["device"], precisions)
