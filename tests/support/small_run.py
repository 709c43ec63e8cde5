"""A step small enough to train many times in a test. As a program: a run that kills itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llava_st_ros.training.loop.batches import FULL_SHARD, Shard, item_rng
from llava_st_ros.training.loop.loop import LoopConfig, run
from llava_st_ros.training.loop.losses import LossTerms, logged_mean, mean_term

ITEMS = 6


@dataclass(frozen=True)
class Points:
    """``x`` float32 [B, 4]; ``sources`` are "points:step.item"."""

    x: Tensor
    sources: tuple[str, ...]


def points(step: int, shard: Shard = FULL_SHARD) -> Points:
    items = shard.items(ITEMS)
    rows = [item_rng(1, step, item).normal(size=4) for item in items]
    sources = tuple(f"points:{step}.{item}" for item in items)
    return Points(torch.tensor(np.array(rows, dtype=np.float32)), sources)


class Net(nn.Module):
    """Has parameters of every optimizer group, and dropout, which a resumed run must reproduce."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(1, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.noise = nn.Dropout(0.2)
        self.lm_head = nn.Linear(8, 1, bias=False)
        self.unused = nn.Linear(4, 4)

    def forward(self, batch: Points) -> LossTerms:
        """Classify which coordinate is largest; samples with a positive first one weigh more."""
        h = torch.tanh(self.inside(batch.x[..., None]))  # [B, 4, 8]
        h = self.noise(h + self.attention(h, h, h, need_weights=False)[0])
        logits = self.lm_head(h)[..., 0]
        losses = nn.functional.cross_entropy(logits, batch.x.argmax(1), reduction="none")
        kept = losses[batch.x[:, 0] > 0]
        return {
            "all": mean_term(losses),
            "positive": mean_term(kept, 0.5),
            "size": logged_mean(batch.x),
        }


def small_net() -> Net:
    torch.manual_seed(0)
    return Net()


def small_config(**changes: Any) -> LoopConfig:
    settings = {"steps": 8, "rate": 0.01, "matrix_rate": 0.01, "warmup": 3}
    return LoopConfig(**{**settings, "log_every": 1, "save_steps": 2, **changes})


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without its timings."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["minutes"], line["samples_per_second"]
    return lines


def send_signal_at(net: Net, step: int, number: int) -> Net:
    """Make the net send a signal to its own process at the start of a step, counted from 0."""
    steps = iter(range(step + 1))

    def count(*_: object) -> None:
        if next(steps, None) == step:
            os.kill(os.getpid(), number)

    net.register_forward_pre_hook(count)
    return net


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(
        "small",
        send_signal_at(small_net(), 5, signal.SIGKILL),
        points,
        small_config(),
        Path(sys.argv[1]),
    )
