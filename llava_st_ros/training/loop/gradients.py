"""The gradient of one step: accumulated over several batches, each sharded over all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llava_st_ros.training.loop.batches import Batch
from llava_st_ros.training.loop.losses import LossTerms, weighted_sum


@dataclass(frozen=True)
class StepResult:
    """The measurements of one step. Equal in every process, except ``sources``.

    Attributes:
        metrics: "loss", "norm" (of the gradient before clipping), and the mean of every term.
        minutes: Training time by the main process's clock.
        stop_requested: Whether any process received a signal to stop.
        samples: Number of samples over all processes.
        sources: Where this process's samples come from.
    """

    metrics: dict[str, float]
    minutes: float
    stop_requested: bool
    samples: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class _ReducedBatch:
    """One batch's sums over all processes.

    Attributes:
        weights: The weight of each loss term.
        sums: float64 [2 * terms + 3]: numerators, denominators, samples, minutes, stop requests.
    """

    weights: dict[str, float]
    sums: Tensor

    @property
    def denominators(self) -> Tensor:
        return self.sums[len(self.weights) : 2 * len(self.weights)]


def compute_gradients(
    model: nn.Module,
    batches: Iterable[Batch],
    count: int,
    clip_norm: float,
    accelerator: Accelerator,
    minutes: Callable[[], float],
    stop_requested: Callable[[], bool],
) -> StepResult:
    """Compute the mean gradient of ``count`` batches, clipped, into the parameters' ``grad``.

    The result equals that of a single process that has all items of each batch.

    Args:
        model: The prepared step.
        batches: This process's shard of each batch.
        count: The number of batches.
        clip_norm: The largest norm of the gradient.
        accelerator: Reduces over processes.
        minutes: This process's clock; that of the main process is used.
        stop_requested: Whether this process received a signal to stop; reduced over processes.
    """
    sources: tuple[str, ...] = ()
    reduced = []
    for number, batch in enumerate(batches, start=1):
        sources += batch.sources
        is_last = number == count
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            terms = model(batch)
            clock = minutes() if accelerator.is_main_process else 0.0
            numbers = [len(batch.sources), clock, stop_requested()]
            sums = _reduce(terms, numbers, accelerator)
            reduced.append(_ReducedBatch({name: t.weight for name, t in terms.items()}, sums))
            loss = weighted_sum(terms, list(reduced[-1].denominators))
            # Gradients are averaged over processes; the batch's gradient is their sum.
            accelerator.backward(loss * (accelerator.num_processes / count))
    norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    # The first read from the device: until here the host did not wait for it.
    return _read(reduced, norm, sources)


def _reduce(terms: LossTerms, numbers: list[float], accelerator: Accelerator) -> Tensor:
    """Sum over all processes, in float64: numerators, denominators, ``numbers``."""
    numerators = torch.stack([term.numerator.detach().double() for term in terms.values()])
    denominators = torch.stack([term.denominator.double() for term in terms.values()])
    own = torch.tensor(numbers, dtype=torch.float64, device=numerators.device)
    reduced: Tensor = accelerator.reduce(torch.cat([numerators, denominators, own]), "sum")
    return reduced


def _read(reduced: Sequence[_ReducedBatch], norm: Tensor, sources: tuple[str, ...]) -> StepResult:
    loss, samples, minutes, stop = 0.0, 0.0, 0.0, 0.0
    numerators: dict[str, float] = {}
    denominators: dict[str, float] = {}
    for batch in reduced:
        *sums, batch_samples, minutes, stop = batch.sums.tolist()
        samples += batch_samples
        ratios = zip(batch.weights.items(), sums, sums[len(batch.weights) :])
        for (name, weight), numerator, denominator in ratios:
            loss += weight * numerator / (denominator or 1.0) / len(reduced)
            numerators[name] = numerators.get(name, 0.0) + numerator
            denominators[name] = denominators.get(name, 0.0) + denominator
    means = {
        name: numerators[name] / denominators[name] for name in numerators if denominators[name]
    }
    full_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    metrics = {"loss": loss, "norm": full_norm, **means}
    return StepResult(metrics, minutes, stop > 0, int(samples), sources)
