"""The optimisation loop that every stage runs: Muon and AdamW, warm-up, cosine, log, time limit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llava_st_ros.errors import LlavaStError

T = TypeVar("T")
LossParts = tuple[Tensor, dict[str, float]]
HEADS = ("lm_head", "labels")  # linear layers that give logits


class TrainingError(LlavaStError):
    """Training that cannot go on, a loss that is no number for example."""


@dataclass(frozen=True)
class LoopConfig:
    """``rate`` is AdamW's peak learning rate; ``minutes`` ends the cosine early on a slow machine.

    With ``matrix_rate`` the weights of linear layers are trained by Muon at that peak rate.
    The rate follows the larger of the two shares, steps done and minutes spent, so that a run cut
    by its time limit still cools down.
    """

    steps: int
    rate: float
    matrix_rate: float | None = None
    minutes: float = math.inf
    warmup: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    log_every: int = 20


def prefetched(make: Callable[[], T]) -> Iterator[T]:
    """What ``make`` returns, over and over; the next one is made while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make)
        while True:
            ready = waiting.result()
            waiting = pool.submit(make)
            yield ready


def rate_share(config: LoopConfig, step: int, minutes: float) -> float:
    """The learning rate of a step (from 0) after ``minutes``, as a share of its peak."""
    done = min(1.0, max(step / config.steps, minutes / config.minutes))
    warm = min(1.0, (step + 1) / config.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))


def optimisers(
    modules: Iterable[nn.Module], config: LoopConfig
) -> list[torch.optim.AdamW | torch.optim.Muon]:
    """What trains every parameter of ``modules`` that has a gradient, each once.

    Muon (torch.optim.Muon, with AdamW's root mean square) takes the matrices inside the network;
    embeddings, tables, the layers that give logits and all vectors stay with AdamW.
    """
    modules = list(modules)
    trained = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
    inner = set(map(id, inner_matrices(modules))) if config.matrix_rate is not None else set()
    outer = [p for key, p in trained.items() if key not in inner]
    found: list[torch.optim.AdamW | torch.optim.Muon] = [
        torch.optim.AdamW(
            [
                {"params": [p for p in outer if p.ndim >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.rate,
            betas=(0.9, 0.98),
        )
    ]
    matrices = [p for key, p in trained.items() if key in inner]
    if matrices:
        assert config.matrix_rate is not None
        found.append(
            torch.optim.Muon(
                matrices,
                lr=config.matrix_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return found


def inner_matrices(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """Weights of linear layers and attention, but not of layers named as heads."""
    for module in modules:
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear) and name.rpartition(".")[2] not in HEADS:
                yield child.weight
            elif isinstance(child, nn.MultiheadAttention):
                yield child.in_proj_weight


def run(
    name: str,
    modules: Iterable[nn.Module],
    loss: Callable[[], LossParts],
    config: LoopConfig,
    log: Path,
) -> int:
    """Train the modules until the steps or the minutes are used up; returns the steps taken.

    ``loss()`` makes a batch and returns its loss and the parts to log, as JSON lines in
    ``log``. Raises TrainingError when the loss is not finite.
    """
    steppers = optimisers(modules, config)
    groups = [group for stepper in steppers for group in stepper.param_groups]
    peaks = [group["lr"] for group in groups]
    trained = [p for group in groups for p in group["params"]]
    began = time.monotonic()
    mean: dict[str, float] = {}
    step = 0
    with log.open("a", encoding="utf-8") as lines, tqdm(total=config.steps, desc=name) as bar:
        while step < config.steps:
            minutes = (time.monotonic() - began) / 60
            if minutes >= config.minutes:
                break
            share = rate_share(config, step, minutes)
            for group, peak in zip(groups, peaks):
                group["lr"] = peak * share
            total, parts = loss()
            if not math.isfinite(total.item()):
                raise TrainingError(
                    f"a loss of {total.item()} in stage {name}, step {step}",
                    "a finite number",
                    "lower the stage's rate",
                )
            for stepper in steppers:
                stepper.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
            for stepper in steppers:
                stepper.step()
            parts = {"loss": total.item(), "norm": float(norm), **parts}
            for key, value in parts.items():
                if math.isfinite(value):
                    mean[key] = value + 0.95 * (mean.get(key, value) - value)
            step += 1
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                bar.set_postfix({k: f"{v:.3f}" for k, v in mean.items()}, refresh=False)
                record = {"stage": name, "step": step, "minutes": round(minutes, 2), **mean}
                lines.write(json.dumps(record) + "\n")
                lines.flush()
    return step
