"""Export targets: one YAML file per kind of machine, in export/targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from llava_st_ros.errors import ConfigError
from llava_st_ros.files.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "targets"
DEFAULT_BOUNDS = Path(__file__).parent / "bounds.yaml"

Version = tuple[int, int]  # major, minor


@dataclass(frozen=True)
class Bounds:
    """Largest accepted differences between an engine and the reference; by default any.

    Attributes:
        relative: Upper bound of each graph's ``Difference.relative``.
        divergence: Upper bound of ``Proof.divergence``, nats.
        equal_ids: Lower bound of ``Proof.equal_ids``.
        viou_loss: Upper bound of ``Accuracy.loss``.
        median_bins: Upper bound of ``Agreement.median_bins``.
        p99_bins: Upper bound of ``Agreement.p99_bins``.
        tube_iou: Lower bound of ``Agreement.tube_iou``.
        equal_answers: Lower bound of ``Agreement.equal``.
    """

    relative: float = math.inf
    divergence: float = math.inf
    equal_ids: float = 0.0
    viou_loss: float = math.inf
    median_bins: float = math.inf
    p99_bins: float = math.inf
    tube_iou: float = 0.0
    equal_answers: float = 0.0


@dataclass(frozen=True)
class Target:
    """A kind of machine to export for.

    Attributes:
        name: Name of the YAML file.
        backend: Backend that runs the engines.
        device: Device that runs the engines, and the proof by default.
        precisions: Bounds by precision; the first precision is the default.
        boards: Names of the boards in boards.yaml that this target covers.
        tensorrt: Lowest TensorRT version that builds for it; None without TensorRT.
        compute_capability: Compute capability of its GPU, such as "8.7"; empty: any.
        workspace: Scratch memory that a TensorRT layer may use, GiB.
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
        """Return the bounds of a precision. Raises ConfigError if the target does not offer it."""
        if precision not in self.precisions:
            raise ConfigError(
                f"target {self.name} does not offer precision {precision!r}; "
                f"expected one of {', '.join(self.precisions)}"
            )
        return self.precisions[precision]


def target_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_target(name: str) -> Target:
    """Read a target by name. Raises ConfigError if there is none."""
    if name not in target_names():
        raise ConfigError(f"target is {name!r}; expected one of {', '.join(target_names())}")
    values = read_yaml(FOLDER / f"{name}.yaml", ConfigError)
    defaults = read_yaml(DEFAULT_BOUNDS, ConfigError)
    precisions = {
        precision: _bounds(f"{name}.yaml", precision, {**defaults[precision], **(overrides or {})})
        for precision, overrides in values["precisions"].items()
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


def _bounds(file: str, precision: str, values: Mapping[str, object]) -> Bounds:
    known = [field.name for field in fields(Bounds)]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{file}: {precision} has the bound {name!r}; expected {known}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ConfigError(f"{file}: the bound {name} of {precision} is {value!r}, no number")
    return Bounds(**{name: float(str(value)) for name, value in values.items()})


def parse_version(text: str) -> Version:
    """Parse major and minor of a version such as "10.3" or "10.16.1.11"."""
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
