"""The optimization loop that every stage runs, in one process or in many (accelerate).

One process with a batch and N processes that share it out take the same steps: terms are divided by
their counts over all processes, gradients are summed, and everything that ends or interrupts
the loop (steps, minutes, signals, a loss that is no number) is agreed upon.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn

from llava_st_ros.errors import ConfigError, LlavaStError
from llava_st_ros.training.loop import run_state
from llava_st_ros.training.loop.batches import B, item_rng, prefetched
from llava_st_ros.training.loop.gradients import Gradients, gradients
from llava_st_ros.training.loop.interrupts import Interrupts
from llava_st_ros.training.loop.optimizers import RateConfig, make_optimizers, rate_share
from llava_st_ros.training.loop.progress import Progress, RunningMeans
from llava_st_ros.training.loop.run_state import RunState

# Of LoopConfig, what a stage may not change while it is under way.
LASTING = ("rate", "matrix_rate", "rates", "weight_decay", "clip_norm", "seed")


class TrainingError(LlavaStError):
    """Training that cannot continue, for example after a NaN or infinite loss."""


class TrainingInterrupted(TrainingError):  # noqa: N818 (it went well)
    """A run that a signal stopped after saving its state; ``code`` is 128 + the signal's number."""

    def __init__(self, problem: str, remedy: str, code: int) -> None:
        super().__init__(problem, remedy)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class LoopConfig(RateConfig):
    """How long a stage lasts and how it is watched; see RateConfig for the rates.

    ``minutes`` ends the cosine early on a slow machine: the rate follows the larger of the two
    shares, steps done and minutes spent, so that a run cut by its time limit still cools down.
    Minutes are counted without the first step, which compiles (that of each process of a run that
    was interrupted).
    A step is ``accumulate`` batches, one after another, whose gradients are averaged.
    ``explosion``: after the warm-up a loss is taken to have exploded beyond so many times its
    running mean, or so many nats where the mean is less than one (a model that is nearly
    always sure may jump from 0.01 to 0.5). Ten: an ordinary batch stays below two or three.
    ``workers`` as of batches.prefetched. State is saved every ``save_minutes`` and, if set,
    ``save_steps``.
    """

    steps: int
    minutes: float = math.inf
    warmup: int = 100
    clip_norm: float = 1.0
    accumulate: int = 1
    explosion: float = 10.0
    seed: int = 0
    log_every: int = 20
    save_minutes: float = 5.0
    save_steps: int | None = None
    workers: int = 0


def make_accelerator() -> Accelerator:
    """As ``accelerate launch`` or the machine says; a batch need not use every parameter.

    Raises ConfigError where several processes were launched that would each train alone.
    """
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes, each of which would train alone"
            "; expected an accelerator for each, or ACCELERATE_USE_CPU=true",
            "launch as docs/training.md says",
        )
    return accelerator


def run(
    name: str,
    step: nn.Module,
    batches: Callable[[int], B],
    config: LoopConfig,
    folder: Path,
    accelerator: Accelerator | None = None,
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Train ``step`` until the steps or the minutes are used up; returns the steps taken.

    ``step(batch)`` returns Terms; every parameter of it that requires a gradient is trained.
    ``batches(i)`` must be a pure function of i, this process's part of the batch (batches.Share).
    Writes ``folder``/log.jsonl and the run's state (run_state) and goes on from that state when
    called again, to the same losses: a finished stage returns at once. ``settings`` (JSON) are
    those that the step and its batches were made from: a state saved under others is refused, as
    under other rates or another seed. How long the stage lasts may change.
    Raises TrainingError when the loss explodes or is not finite, TrainingInterrupted on SIGTERM
    and SIGINT, once the step is done and the state saved.
    """
    accelerator = accelerator or make_accelerator()
    return _Loop(name, step, batches, config, folder, accelerator, settings or {}).run()


class _Loop:
    def __init__(
        self,
        name: str,
        step: nn.Module,
        batches: Callable[[int], Any],
        config: LoopConfig,
        folder: Path,
        accelerator: Accelerator,
        settings: Mapping[str, Any],
    ) -> None:
        self.name, self.config, self.folder, self.accelerator = name, config, folder, accelerator
        self.batches = batches
        folder.mkdir(parents=True, exist_ok=True)
        optimizers = make_optimizers(step, config)
        self.model, *self.optimizers = accelerator.prepare(step, *optimizers)
        self.step = accelerator.unwrap_model(self.model)
        self.groups = [group for stepper in self.optimizers for group in stepper.param_groups]
        self.peaks = [group["lr"] for group in self.groups]
        self.settings = {**settings, **{key: getattr(config, key) for key in LASTING}}
        state = run_state.load(folder, name, self.step, self._inner_optimizers(), self.settings)
        self.done, self.minutes, self.means = state.step, state.minutes, RunningMeans(state.means)
        self.saved = (state.step, state.minutes)
        self.began: float | None = None  # when minutes were 0; unknown before the first step's end

    def run(self) -> int:
        config, first = self.config, self.done
        steps = range(first * config.accumulate, config.steps * config.accumulate)
        made = prefetched(self.batches, steps, config.workers, self.accelerator.device)
        log = self.folder / "log.jsonl"
        shown = self.accelerator.is_main_process
        try:
            with (
                contextlib.closing(made),
                Interrupts() as self.interrupts,
                Progress(self.name, config.steps, first, log, shown) as progress,
            ):
                self._train(made, progress)
        finally:
            # Whatever wraps the step lets go of its parameters: the next stage may train them too.
            del self.model, self.optimizers, self.groups
            self.accelerator.free_memory()
        return self.done

    def _train(self, made: Iterator[Any], progress: Progress) -> None:
        config = self.config
        began, samples = time.monotonic(), 0  # since the last line of the log
        here, first = time.monotonic(), self.done
        while self.done < config.steps and self.minutes < config.minutes:
            rate = self._set_rates()
            found = self._take_step(made)
            self.done, self.minutes = self.done + 1, found.minutes
            if self.began is None:
                self.began = time.monotonic() - 60 * self.minutes
            self.means.update(found.values)
            samples += found.samples
            per_step = (time.monotonic() - here) / 60 / (self.done - first)
            by_steps = (config.steps - self.done) * per_step
            progress.advance(min(by_steps, config.minutes - self.minutes))
            if self.done % config.log_every == 0 or self._over():
                record = {"step": self.done, "minutes": round(self.minutes, 2), **self.means.values}
                speed = samples / (time.monotonic() - began)
                progress.write({**record, "rate": rate, "samples_per_second": round(speed, 2)})
                began, samples = time.monotonic(), 0
            if found.stop or self._over() or self._save_is_due():
                self._save()
            if found.stop and not self._over():
                raise self._interrupted()

    def _over(self) -> bool:
        return self.done >= self.config.steps or self.minutes >= self.config.minutes

    def _set_rates(self) -> float:
        """Give every group its rate for the next step; returns that of ``config.rate``."""
        spent = max(self.done / self.config.steps, self.minutes / self.config.minutes)
        share = rate_share(min(1.0, spent), self.done, self.config.warmup)
        for group, peak in zip(self.groups, self.peaks):
            group["lr"] = peak * share
        return self.config.rate * share

    def _take_step(self, made: Iterator[Any]) -> Gradients:
        config, accelerator = self.config, self.accelerator
        # Dropout's noise: of this step and process, so that it needs no saving.
        noise = item_rng(config.seed, self.done, accelerator.process_index)
        torch.manual_seed(int(noise.integers(2**62)))
        found = gradients(
            self.model,
            itertools.islice(made, config.accumulate),
            config.accumulate,
            config.clip_norm,
            accelerator,
            minutes=self._minutes_now,
            told=lambda: self.interrupts.received is not None,
        )
        self._check(found)
        for stepper in self.optimizers:
            stepper.step()
            stepper.zero_grad()
        return found

    def _minutes_now(self) -> float:
        return self.minutes if self.began is None else (time.monotonic() - self.began) / 60

    def _check(self, found: Gradients) -> None:
        """Raises TrainingError, before the step is taken, where it would do harm."""
        wrong = expected = ""
        values = found.values
        for name in ("loss", "norm"):
            if not math.isfinite(values[name]):
                wrong, expected = f"a {name} of {values[name]}", "a finite number"
        if not wrong and self.done >= self.config.warmup and "loss" in self.means.values:
            limit = self.config.explosion * max(1.0, self.means.values["loss"])
            if values["loss"] > limit:
                wrong, expected = f"a loss of {values['loss']:.3g}", f"at most {limit:.3g}"
        if wrong:
            everywhere = ", ".join(gather_object(list(found.sources)))
            raise TrainingError(
                f"{wrong} in stage {self.name}, step {self.done}, from {everywhere}"
                f"; expected {expected}",
                "look at these samples or lower the stage's rate; the run's last saved state stays",
            )

    def _save_is_due(self) -> bool:
        step, minutes = self.saved
        every = self.config.save_steps or math.inf
        return self.done - step >= every or self.minutes - minutes >= self.config.save_minutes

    def _save(self) -> None:
        state = RunState(self.done, self.minutes, self.means.values, self.settings)
        run_state.save(
            self.folder, self.name, state, self.step, self._inner_optimizers(), self.accelerator
        )
        self.saved = (self.done, self.minutes)

    def _inner_optimizers(self) -> list[torch.optim.Optimizer]:
        return [stepper.optimizer for stepper in self.optimizers]

    def _interrupted(self) -> TrainingInterrupted:
        number = self.interrupts.received or signal.SIGTERM
        return TrainingInterrupted(
            f"{number.name} in stage {self.name}: saved at step {self.done} of {self.config.steps}",
            "run the same command again to continue",
            128 + number,
        )
