"""The optimisation loop that every stage runs: AdamW, warm-up and cosine, a log, a time limit."""

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


class TrainingError(LlavaStError):
    """Training that cannot go on, a loss that is no number for example."""


@dataclass(frozen=True)
class LoopConfig:
    """``rate`` is the peak learning rate; ``minutes`` ends the cosine early on a slow machine.

    The rate follows the larger of the two shares, steps done and minutes spent, so that a run cut
    by its time limit still cools down.
    """

    steps: int
    rate: float
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


def rate_at(config: LoopConfig, step: int, minutes: float) -> float:
    """The learning rate of a step (from 0) after ``minutes`` of the stage."""
    done = min(1.0, max(step / config.steps, minutes / config.minutes))
    warm = min(1.0, (step + 1) / config.warmup)
    return config.rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Matrices decay; vectors (biases, norms) do not."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def run(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss: Callable[[int], LossParts],
    config: LoopConfig,
    log: Path,
) -> int:
    """Train until the steps or the minutes are used up; returns the steps taken.

    ``loss(step)`` makes a batch and returns its loss and the parts to log, as JSON lines in
    ``log``. Raises TrainingError when the loss is not finite.
    """
    groups = parameter_groups(parameters, config.weight_decay)
    trained = [p for group in groups for p in group["params"]]
    optimiser = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98))
    began = time.monotonic()
    mean: dict[str, float] = {}
    step = 0
    with log.open("a", encoding="utf-8") as lines, tqdm(total=config.steps, desc=name) as bar:
        while step < config.steps:
            minutes = (time.monotonic() - began) / 60
            if minutes >= config.minutes:
                break
            for group in optimiser.param_groups:
                group["lr"] = rate_at(config, step, minutes)
            total, parts = loss(step)
            if not math.isfinite(total.item()):
                raise TrainingError(
                    f"a loss of {total.item()} in stage {name}, step {step}",
                    "a finite number",
                    "lower the stage's rate",
                )
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimiser.step()
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
