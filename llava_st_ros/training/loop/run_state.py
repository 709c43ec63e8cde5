"""The state of a stage on disk: what a run that was killed needs to go on as if it had not been.

``<folder>/state/<stage>-<step>/`` holds the trained parameters and the optimizers' state by name
(safetensors) and the rest (JSON). Nothing of the batches or of dropout is kept: both are functions
of the step. A state appears under its name only once it is whole, and the one before it stays
until the next, in case the disk lost the last.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_st_ros.errors import CheckpointError

KEPT = 2
WEIGHTS, OPTIMISERS, NUMBERS = "trained.safetensors", "optimizers.safetensors", "run.json"
SEPARATOR = "|"  # between a parameter's name and that of its optimizer's state; in neither


@dataclass(frozen=True)
class RunState:
    """``step`` steps done in ``minutes`` under these ``settings`` (JSON), with these running
    ``means`` of what is logged."""

    step: int
    minutes: float
    means: dict[str, float]
    settings: dict[str, Any]


def trained_parameters(step: nn.Module) -> dict[str, Tensor]:
    """What is trained, by name, whole and on the CPU. With FSDP every process must call this."""
    return {name: _whole(p) for name, p in step.named_parameters() if p.requires_grad}


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
        final = folder / "state" / f"{stage}-{state.step:07d}"
        part = final.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(weights, part / WEIGHTS)
        save_file(moments, part / OPTIMISERS)
        (part / NUMBERS).write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
        for later in _states(folder, stage):
            if _step(later) >= state.step:  # could not be read, or this run would not be here
                shutil.rmtree(later)
        part.rename(final)
        for old in _states(folder, stage)[KEPT:]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load(
    folder: Path,
    stage: str,
    step: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Mapping[str, Any],
) -> RunState:
    """Put the last whole state of a stage into the step and its optimizers; without one, step 0.

    Raises CheckpointError when there are states but none can be read, or when one is of other
    parameters or was saved under other ``settings``.
    """
    current: dict[str, Any] = json.loads(json.dumps(settings))  # as a state holds them
    found = _states(folder, stage)
    broken = []
    for path in found:
        try:
            weights, moments = load_file(path / WEIGHTS), load_file(path / OPTIMISERS)
            state = RunState(**json.loads((path / NUMBERS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            broken.append(f"{path}: {error}")
            continue
        _check_settings(path, state.settings, current)
        _check(path, weights, step)
        _fill(step, weights, optimizers, moments)
        return state
    if found:
        raise CheckpointError(
            ("; ".join(broken)) + "; expected a state that can be read",
            "delete it to start the stage anew",
        )
    return RunState(0, 0.0, {}, current)


def discard(folder: Path, stage: str) -> None:
    """Remove a stage's states, once its result is kept elsewhere."""
    for path in _states(folder, stage):
        shutil.rmtree(path)


def _states(folder: Path, stage: str) -> list[Path]:
    """Folders of whole states, the latest first."""
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
        f"{names[id(p)]}{SEPARATOR}{key}": _whole(value)
        for stepper in optimizers
        for p, values in stepper.state.items()
        for key, value in values.items()
    }


def _check_settings(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    names = sorted(saved.keys() | current.keys())
    other = [name for name in names if saved.get(name) != current.get(name)]
    if other:
        found, expected = (
            ", ".join(f"{name} {values.get(name)}" for name in other) for values in (saved, current)
        )
        raise CheckpointError(
            f"{path}, saved with {found}; expected {expected}, as now",
            "go back to those settings, or delete it to start the stage anew",
        )


def _check(path: Path, weights: dict[str, Tensor], step: nn.Module) -> None:
    wanted = {name: p.shape for name, p in step.named_parameters() if p.requires_grad}
    wrong = [
        name
        for name in sorted(wanted.keys() | weights.keys())
        if name not in wanted or name not in weights or wanted[name] != weights[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} differs from what is trained in {len(wrong)} parameters, {wrong[0]} first"
            "; expected a state of the same model and stage",
            "use another work folder, or delete it to start the stage anew",
        )


def _fill(
    step: nn.Module,
    weights: dict[str, Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
    moments: dict[str, Tensor],
) -> None:
    parameters = dict(step.named_parameters())
    owner = {id(p): s for s in optimizers for group in s.param_groups for p in group["params"]}
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(_placed(value, parameters[name]))
    for full_name, value in moments.items():
        name, _, key = full_name.rpartition(SEPARATOR)
        parameter = parameters[name]
        state = owner[id(parameter)].state[parameter]
        # AdamW counts its steps on the CPU; all else lies beside the parameter.
        state[key] = value if key == "step" else _placed(value, parameter)


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def _placed(value: Tensor, like: Tensor) -> Tensor:
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
