"""The gradient of one step: of several batches in turn, each shared out over all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llava_st_ros.training.loop.batches import Batch
from llava_st_ros.training.loop.losses import Terms, weighted_sum


@dataclass(frozen=True)
class Gradients:
    """What a step found, the same in every process but for the sources, which are its own."""

    values: dict[str, float]  # the loss, the gradient's norm before it was clipped, the terms
    minutes: float  # by the main process's clock
    stop: bool  # some process was told to stop
    samples: int
    sources: tuple[str, ...]


def gradients(
    model: nn.Module,
    batches: Iterable[Batch],
    count: int,
    clip_norm: float,
    accelerator: Accelerator,
    minutes: Callable[[], float],
    told: Callable[[], bool],
) -> Gradients:
    """Put the mean gradient of ``count`` batches into the parameters, clipped.

    The result is that of one process with all of each batch. ``minutes`` is this process's clock
    and ``told`` whether it was told to stop; both are agreed upon in passing.
    """
    sources: tuple[str, ...] = ()
    parts = []
    for number, batch in enumerate(batches, start=1):
        sources += batch.sources
        whole = number == count
        with contextlib.nullcontext() if whole else accelerator.no_sync(model):
            terms = model(batch)
            clock = minutes() if accelerator.is_main_process else 0.0
            agreed = _agree(terms, [len(batch.sources), clock, told()], accelerator)
            loss = weighted_sum(terms, list(agreed[len(terms) : 2 * len(terms)]))
            # Processes average their gradients: times their number it is the whole batch's.
            accelerator.backward(loss * (accelerator.num_processes / count))
        weights = {name: term.weight for name, term in terms.items()}
        parts.append((weights, agreed))
    norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    # Read only now: until here the host waited for nothing that an accelerator computes.
    return _read(parts, norm, sources)


def _agree(terms: Terms, numbers: list[float], accelerator: Accelerator) -> Tensor:
    """Sums over all processes, f64: of the terms their totals, then their counts; the numbers."""
    totals = torch.stack([term.total.detach().double() for term in terms.values()])
    counts = torch.stack([term.count.double() for term in terms.values()])
    own = torch.tensor(numbers, dtype=torch.float64, device=totals.device)
    agreed: Tensor = accelerator.reduce(torch.cat([totals, counts, own]), "sum")
    return agreed


def _read(
    parts: Sequence[tuple[dict[str, float], Tensor]], norm: Tensor, sources: tuple[str, ...]
) -> Gradients:
    loss, samples, minutes, told = 0.0, 0.0, 0.0, 0.0
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for weights, agreed in parts:
        *sums, more, minutes, told = agreed.tolist()
        samples += more
        for (name, weight), total, count in zip(weights.items(), sums, sums[len(weights) :]):
            loss += weight * total / (count or 1.0) / len(parts)
            totals[name] = totals.get(name, 0.0) + total
            counts[name] = counts.get(name, 0.0) + count
    means = {name: totals[name] / counts[name] for name in totals if counts[name]}
    size = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return Gradients(
        {"loss": loss, "norm": size, **means}, minutes, told > 0, int(samples), sources
    )
