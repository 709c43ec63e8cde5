"""The optimization loop that every stage runs, in one process or several (accelerate).

One process with all of a batch and N processes with a shard each take the same steps: loss terms
are divided by their denominators over all processes, gradients are summed, and the processes agree
on everything that ends or interrupts the loop (steps, minutes, signals, a NaN or infinite loss).
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from llava_st_ros.errors import ConfigError
from llava_st_ros.training.loop import run_state
from llava_st_ros.training.loop.batches import B, item_rng, prefetch
from llava_st_ros.training.loop.errors import TrainingError, TrainingInterrupted
from llava_st_ros.training.loop.gradients import StepResult, compute_gradients
from llava_st_ros.training.loop.interrupts import Interrupts
from llava_st_ros.training.loop.optimizers import OptimizerConfig, make_optimizers, rate_factor
from llava_st_ros.training.loop.progress import Progress, RunningMeans
from llava_st_ros.training.loop.run_state import RunState
from llava_st_ros.training.loop.time_budget import TimeBudget

# Fields of LoopConfig that may not change when a stage is resumed.
FIXED_ON_RESUME = ("rate", "matrix_rate", "rates", "weight_decay", "clip_norm", "seed")

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(OptimizerConfig):
    """Length, learning rates and monitoring of a stage.

    Attributes:
        steps: Number of optimizer steps.
        minutes: Time limit. The learning rate follows the larger of the two fractions, steps done
            and minutes spent, so a run that the limit ends still cools down. The first step of
            each process, which compiles, is not counted.
        warmup: Steps of learning rate warm-up.
        clip_norm: Gradient clipping: the largest norm.
        accumulate: Number of batches in a step, whose gradients are averaged.
        max_loss_ratio: After the warm-up, the run stops at a loss above ``max_loss_ratio`` times
            its running mean, or above ``max_loss_ratio`` where the mean is less than one (a nearly
            certain model may jump from 0.01 to 0.5). Ordinary batches stay below two or three times
            the mean.
        seed: Seeds dropout.
        log_every: Steps between two log lines.
        save_minutes: Minutes between two saved states.
        save_steps: Steps between two saved states; None: no limit.
        workers: Processes that make batches, see batches.prefetch.
    """

    steps: int
    minutes: float = math.inf
    warmup: int = 100
    clip_norm: float = 1.0
    accumulate: int = 1
    max_loss_ratio: float = 10.0
    seed: int = 0
    log_every: int = 20
    save_minutes: float = 2.0
    save_steps: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "accumulate": 1, "log_every": 1, "warmup": 0, "workers": 0, "seed": 0}
        lowest["rate"] = 0  # 0: every parameter has another rate
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {low}")
        if self.save_steps is not None and self.save_steps < 1:
            raise ConfigError(f"save_steps is {self.save_steps}; expected at least 1")
        for name in ("minutes", "clip_norm", "max_loss_ratio"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a value above 0")

    def grown(self, factor: int) -> LoopConfig:
        """Return the settings of the stage when each step has ``factor`` of its batches.

        The samples stay the same, so the steps and everything that is counted in steps are divided
        by ``factor``. Rates are multiplied by its square root, as adaptive optimizers require
        (Malladi et al. 2022, arXiv 2205.10287), and so is the weight decay, since each step decays
        by rate times decay. The optimizers' averages keep their lengths in steps.
        """
        root = math.sqrt(factor)
        return dataclasses.replace(
            self,
            steps=-(-self.steps // factor),
            warmup=-(-self.warmup // factor),
            log_every=-(-self.log_every // factor),
            save_steps=None if self.save_steps is None else -(-self.save_steps // factor),
            rate=self.rate * root,
            matrix_rate=None if self.matrix_rate is None else self.matrix_rate * root,
            rates={pattern: rate * root for pattern, rate in self.rates.items()},
            weight_decay=self.weight_decay * root,
        )


def make_accelerator(device: str = "auto") -> Accelerator:
    """Return the accelerator, as configured by ``accelerate launch`` or by default.

    Args:
        device: "cpu" or "cuda"; "auto": a GPU where there is one, unless accelerate is configured
            otherwise.

    Raises:
        ConfigError: The device is not available, or several processes were launched, but each
            would train alone.
    """
    if device not in DEVICES:
        raise ConfigError(f"device is {device!r}; expected one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} has no CUDA device",
            "install a build of torch for the driver (nvidia-smi), or train on the cpu",
        )
    accelerator = Accelerator(
        cpu=device == "cpu",
        # Not every batch uses every parameter.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f"accelerate uses {accelerator.device.type}, not {device}",
            "unset ACCELERATE_USE_CPU, or let the device be auto",
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but each would train alone",
            "give each an accelerator, or set ACCELERATE_USE_CPU=true (docs/training.md)",
        )
    return accelerator


def run(
    name: str,
    step: nn.Module,
    make_batch: Callable[[int], B],
    config: LoopConfig,
    folder: Path,
    accelerator: Accelerator | None = None,
    settings: Mapping[str, Any] | None = None,
    budget: TimeBudget | None = None,
) -> int:
    """Train a stage until its steps or minutes are used up.

    Writes ``folder``/log.jsonl and the run's state (run_state). A second call resumes from that
    state and takes the same steps; for a finished stage it returns immediately.

    Args:
        name: The stage.
        step: ``step(batch)`` returns LossTerms. All its parameters with a gradient are trained.
        make_batch: ``make_batch(i)`` returns this process's shard of batch i. It must be a pure
            function of i.
        config: Length, rates and monitoring.
        folder: The work folder.
        accelerator: As made by ``make_accelerator``, by default.
        settings: What the step and its batches depend on (JSON). A run resumes only under equal
            settings, rates and seed. The stage's length may change.
        budget: The time of this call; None: no limit. It does not affect the result of the stage.

    Returns:
        The number of steps taken.

    Raises:
        TrainingError: The loss or its gradient is NaN or infinite, or the loss exploded.
        TrainingInterrupted: SIGTERM, SIGINT, or the budget is used up; the step was finished and
            the state saved.
    """
    accelerator = accelerator or make_accelerator()
    budget = budget or TimeBudget()
    return _Loop(name, step, make_batch, config, folder, accelerator, settings or {}, budget).run()


class _Loop:
    def __init__(
        self,
        name: str,
        step: nn.Module,
        make_batch: Callable[[int], Any],
        config: LoopConfig,
        folder: Path,
        accelerator: Accelerator,
        settings: Mapping[str, Any],
        budget: TimeBudget,
    ) -> None:
        self.name, self.config, self.folder, self.accelerator = name, config, folder, accelerator
        self.make_batch, self.budget = make_batch, budget
        folder.mkdir(parents=True, exist_ok=True)
        optimizers = make_optimizers(step, config)
        self.model, *self.optimizers = accelerator.prepare(step, *optimizers)
        self.step = accelerator.unwrap_model(self.model)
        self.groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.peaks = [group["lr"] for group in self.groups]
        self.settings = {**settings, **{key: getattr(config, key) for key in FIXED_ON_RESUME}}
        state = run_state.load(folder, name, self.step, self._inner_optimizers(), self.settings)
        self.done, self.minutes, self.means = state.step, state.minutes, RunningMeans(state.means)
        self.saved = (state.step, state.minutes)
        self.started: float | None = None  # time of minute 0; None until the first step has ended

    def run(self) -> int:
        config, first = self.config, self.done
        steps = range(first * config.accumulate, config.steps * config.accumulate)
        batches = prefetch(self.make_batch, steps, config.workers, self.accelerator.device)
        log = self.folder / "log.jsonl"
        is_main = self.accelerator.is_main_process
        try:
            with (
                contextlib.closing(batches),
                Interrupts() as self.interrupts,
                Progress(self.name, config.steps, first, log, is_main) as progress,
            ):
                self._train(batches, progress)
        finally:
            # Release the parameters: the next stage may train them too.
            del self.model, self.optimizers, self.groups
            self.accelerator.free_memory()
        return self.done

    def _train(self, batches: Iterator[Any], progress: Progress) -> None:
        config = self.config
        line_started, samples = time.monotonic(), 0  # since the last line of the log
        loop_started, first = time.monotonic(), self.done
        while self.done < config.steps and self.minutes < config.minutes:
            rate = self._set_rates()
            result = self._take_step(batches)
            self.done, self.minutes = self.done + 1, result.minutes
            if self.started is None:
                self.started = time.monotonic() - 60 * self.minutes
            self.means.update(result.metrics)
            samples += result.samples
            minutes_per_step = (time.monotonic() - loop_started) / 60 / (self.done - first)
            minutes_left = (config.steps - self.done) * minutes_per_step
            progress.advance(min(minutes_left, config.minutes - self.minutes))
            if self.done % config.log_every == 0 or self._is_over():
                record = {"step": self.done, "minutes": round(self.minutes, 2), **self.means.values}
                speed = samples / (time.monotonic() - line_started)
                progress.write({**record, "rate": rate, "samples_per_second": round(speed, 2)})
                line_started, samples = time.monotonic(), 0
            if result.stop_requested or self._is_over() or self._save_is_due():
                self._save()
            if result.stop_requested and not self._is_over():
                raise self._interrupted()

    def _is_over(self) -> bool:
        return self.done >= self.config.steps or self.minutes >= self.config.minutes

    def _set_rates(self) -> float:
        """Set every group's rate for the next step and return the one of ``config.rate``."""
        spent = max(self.done / self.config.steps, self.minutes / self.config.minutes)
        factor = rate_factor(min(1.0, spent), self.done, self.config.warmup)
        for group, peak in zip(self.groups, self.peaks):
            group["lr"] = peak * factor
        return self.config.rate * factor

    def _take_step(self, batches: Iterator[Any]) -> StepResult:
        config, accelerator = self.config, self.accelerator
        # Dropout depends on the step and the process only, so no generator state is saved.
        rng = item_rng(config.seed, self.done, accelerator.process_index)
        torch.manual_seed(int(rng.integers(2**62)))
        result = compute_gradients(
            self.model,
            itertools.islice(batches, config.accumulate),
            config.accumulate,
            config.clip_norm,
            accelerator,
            minutes=self._minutes_now,
            stop_requested=self._stop_requested,
        )
        self._check(result)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return result

    def _minutes_now(self) -> float:
        return self.minutes if self.started is None else (time.monotonic() - self.started) / 60

    def _check(self, result: StepResult) -> None:
        """Raise TrainingError, before the optimizers step, if the loss or its gradient is bad."""
        problem = limit_note = ""
        metrics = result.metrics
        for name in ("loss", "norm"):
            if not math.isfinite(metrics[name]):
                problem = f"a {name} of {metrics[name]}"
        if not problem and self.done >= self.config.warmup and "loss" in self.means.values:
            limit = self.config.max_loss_ratio * max(1.0, self.means.values["loss"])
            if metrics["loss"] > limit:
                problem = f"a loss of {metrics['loss']:.3g}"
                limit_note = f" (the limit is {limit:.3g})"
        if problem:
            sources = ", ".join(gather_object(list(result.sources)))
            raise TrainingError(
                f"{problem} in stage {self.name}, step {self.done}, from {sources}{limit_note}",
                "inspect these samples or lower the stage's rate; the last saved state is kept",
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
        """The optimizers inside accelerate's wrappers."""
        return [optimizer.optimizer for optimizer in self.optimizers]

    def _stop_requested(self) -> bool:
        return self.interrupts.received is not None or self.budget.is_used_up

    def _interrupted(self) -> TrainingInterrupted:
        saved = f"saved at step {self.done} of {self.config.steps}"
        # Without a signal here, it was the budget or a signal to another process.
        if self.interrupts.received is None and math.isfinite(self.budget.minutes):
            return self.budget.out_of_time(f"stage {self.name} is {saved}")
        number = self.interrupts.received or signal.SIGTERM
        return TrainingInterrupted(
            f"{number.name} in stage {self.name}: {saved}",
            "run the same command again to resume",
            128 + number,
        )
