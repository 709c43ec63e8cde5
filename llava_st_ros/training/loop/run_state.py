"""The saved state of a stage, from which an interrupted run resumes exactly.

``<folder>/state/<stage>-<step>/`` holds the trained parameters and the optimizer states by name
(safetensors) and the counters (JSON), each with its checksum. Batches and dropout need no state:
both are functions of the step. A state is written atomically, and the one before it is kept in case
the newest is damaged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_st_ros.atomic_files import atomic_folder
from llava_st_ros.errors import CheckpointError
from llava_st_ros.files.checksums import UNSEALED, checksum_of, seal
from llava_st_ros.files.json_files import parse_json, read_json
from llava_st_ros.files.schema import build
from llava_st_ros.files.tensor_file import read_tensors

KEPT_STATES = 2
WEIGHTS_FILE, OPTIMIZERS_FILE = "trained.safetensors", "optimizers.safetensors"
COUNTERS_FILE = "run.json"
CHECKSUM = "checksum"  # of the other values of COUNTERS_FILE
SEPARATOR = "|"  # between a parameter's name and the key of its optimizer state; in neither


@dataclass(frozen=True)
class RunState:
    """The counters of a run.

    Attributes:
        step: Steps done.
        minutes: Minutes spent on them.
        means: Running means of the logged values.
        settings: What the run depends on (JSON).
    """

    step: int
    minutes: float
    means: dict[str, float]
    settings: dict[str, Any]


def trained_parameters(step: nn.Module) -> dict[str, Tensor]:
    """Return the parameters with a gradient by name, unsharded, on the CPU.

    With FSDP every process must call this.
    """
    return {name: _full_tensor(p) for name, p in step.named_parameters() if p.requires_grad}


def save(
    folder: Path,
    stage: str,
    state: RunState,
    step: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    accelerator: Accelerator,
) -> None:
    """Write a state, then remove all but the last two. Every process must call this."""
    weights, moments = trained_parameters(step), _optimizer_state(step, optimizers)
    if accelerator.is_main_process:
        with atomic_folder(folder / "state" / f"{stage}-{state.step:07d}") as part:
            for name, tensors in ((WEIGHTS_FILE, weights), (OPTIMIZERS_FILE, moments)):
                save_file(tensors, part / name, metadata=UNSEALED)
                seal(part / name)
            values = dataclasses.asdict(state)
            values[CHECKSUM] = checksum_of(values)
            (part / COUNTERS_FILE).write_text(json.dumps(values), encoding="utf-8")
            for later in _states(folder, stage):
                if _step(later) >= state.step:  # unreadable, or the run would have resumed there
                    shutil.rmtree(later)
        for old in _states(folder, stage)[KEPT_STATES:]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load(
    folder: Path,
    stage: str,
    step: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Mapping[str, Any],
) -> RunState:
    """Load a stage's last readable state into the step and its optimizers.

    Returns:
        The counters; those of step 0 if nothing was saved.

    Raises:
        CheckpointError: No state is readable, or the last one has other parameters or settings.
    """
    text = json.dumps(settings)
    current: dict[str, Any] = parse_json(text, "the settings", CheckpointError, nan=True)
    saved = _states(folder, stage)
    unreadable = []
    for path in saved:
        try:
            weights, moments, state = _read(path)
        except CheckpointError as error:
            unreadable.append(str(error))
            continue
        for problem in unreadable:
            print(f"{problem}; resuming from {path.name}", file=sys.stderr)
        _check_settings(path, state.settings, current)
        _check_parameters(path, weights, step)
        _restore(step, weights, optimizers, moments)
        return state
    if saved:
        raise CheckpointError(
            f"no saved state of stage {stage} is readable: {', '.join(unreadable)}",
            "delete them to restart the stage",
        )
    return RunState(0, 0.0, {}, current)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], RunState]:
    """Read a state. Raises CheckpointError if it is damaged."""
    weights, moments = (
        read_tensors(path / name, CheckpointError, framework="pt")
        for name in (WEIGHTS_FILE, OPTIMIZERS_FILE)
    )
    values = read_json(path / COUNTERS_FILE, CheckpointError, nan=True)
    checksum = values.pop(CHECKSUM, None)  # None: saved before states had one
    if checksum is not None and checksum != checksum_of(values):
        raise CheckpointError(f"{path / COUNTERS_FILE} is damaged: its checksum is another")
    return weights, moments, build(RunState, values, str(path / COUNTERS_FILE), CheckpointError)


def discard(folder: Path, stage: str) -> None:
    """Remove a stage's states, once its result is stored elsewhere."""
    for path in _states(folder, stage):
        shutil.rmtree(path)


def last_readable(folder: Path, stage: str) -> Path | None:
    """Return the folder of a stage's last state that is not damaged; None if there is none."""
    for path in _states(folder, stage):
        with contextlib.suppress(CheckpointError):
            _read(path)
            return path
    return None


def _states(folder: Path, stage: str) -> list[Path]:
    """The folders of a stage's states, the latest first."""
    pattern = re.compile(re.escape(stage) + r"-\d{7,}")
    found = [path for path in folder.glob("state/*") if pattern.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def _step(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


def _optimizer_state(
    step: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    names = {id(p): name for name, p in step.named_parameters()}
    return {
        f"{names[id(p)]}{SEPARATOR}{key}": _full_tensor(value)
        for optimizer in optimizers
        for p, values in optimizer.state.items()
        for key, value in values.items()
    }


def _check_settings(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    names = sorted(saved.keys() | current.keys())
    changed = [name for name in names if saved.get(name) != current.get(name)]
    if changed:
        before, now = (
            ", ".join(f"{name} {values.get(name)}" for name in changed)
            for values in (saved, current)
        )
        raise CheckpointError(
            f"{path} was saved with {before}, but the run has {now}",
            "restore those settings, or delete it to restart the stage",
        )


def _check_parameters(path: Path, weights: dict[str, Tensor], step: nn.Module) -> None:
    expected = {name: p.shape for name, p in step.named_parameters() if p.requires_grad}
    wrong = [
        name
        for name in sorted(expected.keys() | weights.keys())
        if name not in expected or name not in weights or expected[name] != weights[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} differs from the trained model in {len(wrong)} parameters, {wrong[0]} first",
            "use another work folder, or delete it to restart the stage",
        )


def _restore(
    step: nn.Module,
    weights: dict[str, Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
    moments: dict[str, Tensor],
) -> None:
    parameters = dict(step.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(_sharded_like(value, parameters[name]))
    for full_name, value in moments.items():
        name, _, key = full_name.rpartition(SEPARATOR)
        parameter = parameters[name]
        state = owner[id(parameter)].state[parameter]
        # AdamW's step counter is on the CPU, its other state on the parameter's device.
        state[key] = value if key == "step" else _sharded_like(value, parameter)


def _full_tensor(value: Tensor) -> Tensor:
    """The unsharded tensor, contiguous, on the CPU."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def _sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` on the device and with the sharding of ``like``."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
