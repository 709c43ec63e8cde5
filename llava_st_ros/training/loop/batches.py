"""Batches as a pure function of the step: who makes which items, and making them ahead of need."""

from __future__ import annotations

import dataclasses
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_st_ros.errors import DataError, LlavaStError


class Batch(Protocol):
    """``sources`` says what each item was made of, "train-000050:17" or "file.json:12"."""

    @property
    def sources(self) -> tuple[str, ...]: ...


B = TypeVar("B")


class Share(NamedTuple):
    """Which items of every batch a process makes: those with ``item % processes == process``."""

    process: int = 0
    processes: int = 1

    def items(self, size: int) -> range:
        """Indices of this process's items in a batch of ``size`` over all processes."""
        return range(self.process, size, self.processes)


WHOLE = Share()


def item_rng(seed: int, step: int, item: int) -> np.random.Generator:
    """All randomness of one item of a step's batch, whichever process makes it.

    What a whole batch has in common is drawn by ``item`` = the batch's size, which no item has.
    """
    return np.random.default_rng([seed, step, item])


def prefetched(
    batches: Callable[[int], B], steps: range, workers: int, device: torch.device
) -> Iterator[B]:
    """``batches(step)`` for each of the steps, in order, on ``device``, ready before it is needed.

    One thread of this process makes a batch ahead; with ``workers`` so many processes make them and
    the thread only fetches. They are forked, so that ``batches`` needs no pickling, and never
    touch the device.
    """
    made: Iterator[B] = map(batches, steps)
    if workers:
        made = iter(
            DataLoader(
                _Steps(batches, steps),
                batch_size=None,
                num_workers=workers,
                multiprocessing_context="fork",
                worker_init_fn=_leave_signals_to_the_loop,
                # Its own, or the workers' seed is drawn from what the step's dropout is drawn from.
                generator=torch.Generator(),
            )
        )
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: moved(next(made), device))
            for _ in steps:
                ready = waiting.result()
                if isinstance(ready, LlavaStError):
                    raise ready
                waiting = pool.submit(lambda: moved(next(made, None), device))
                yield ready
    finally:
        made = iter(())  # ends the processes now: they would outlive an error that holds them


def moved(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on ``device``: dataclasses, tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(
            value, **{f.name: moved(getattr(value, f.name), device) for f in fields if f.init}
        )
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(moved(part, device) for part in value)
    return value


class _Steps(Dataset[Any]):
    def __init__(self, batches: Callable[[int], Any], steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Any:
        """Errors are handed over to be raised by the process that trains: raised here they would
        reach it as something else, and hold on to the processes."""
        try:
            return self.batches(self.steps[index])
        except LlavaStError as error:
            return error
        except Exception as error:
            traceback.print_exc()
            return DataError(
                f"{type(error).__name__}: {error}; expected a batch", "see the traceback above"
            )


def _leave_signals_to_the_loop(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the loop decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
