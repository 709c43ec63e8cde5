"""Batches as a pure function of the step: sharding over processes, and prefetching."""

from __future__ import annotations

import dataclasses
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_st_ros.errors import DataError, LlavaStError, one_line


class Batch(Protocol):
    """What the loop requires of a batch, in addition to what the step reads from it."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where each item comes from, e.g. "train-000050:17" or "file.json:12"."""
        ...


B = TypeVar("B")


class Shard(NamedTuple):
    """The items of every batch that one process makes: those with ``item % world_size == rank``."""

    rank: int = 0
    world_size: int = 1

    def items(self, size: int) -> range:
        """Indices of this shard's items in a batch of ``size`` items over all processes."""
        return range(self.rank, size, self.world_size)


FULL_SHARD = Shard()


def item_rng(seed: int, step: int, item: int) -> np.random.Generator:
    """Return the random generator of one item of a step's batch, the same in every process.

    Draws that all items of a batch share use ``item`` = batch size, which no item has.
    """
    return np.random.default_rng([seed, step, item])


def default_workers(device: torch.device) -> int:
    """Return how many processes should make the batches for each training process.

    On a CPU none: they would take cores from the training, which a thread delays less. For a GPU,
    which takes a step in less time than one core makes its batch, one for each core but one.
    """
    if device.type == "cpu":
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine
    return max(1, len(os.sched_getaffinity(0)) // processes - 1)


def prefetch(
    make_batch: Callable[[int], B], steps: range, workers: int, device: torch.device
) -> Generator[B, None, None]:
    """Yield ``make_batch(step)`` for each step, in order, on ``device``, one batch ahead.

    A thread makes the next batch. With ``workers``, that many processes make the batches and the
    thread only fetches them. They are forked, so ``make_batch`` needs no pickling, and they never
    touch the device.
    """
    batches: Iterator[B] = map(make_batch, steps)
    if workers:
        batches = iter(
            DataLoader(
                _StepDataset(make_batch, steps),
                batch_size=None,
                num_workers=workers,
                multiprocessing_context="fork",
                worker_init_fn=_ignore_signals,
                # A generator of its own: the default one would consume the state that dropout uses.
                generator=torch.Generator(),
            )
        )
    try:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(lambda: to_device(next(batches), device))
            for _ in steps:
                batch = pending.result()
                if isinstance(batch, LlavaStError):
                    raise batch
                pending = pool.submit(lambda: to_device(next(batches, None), device))
                yield batch
    finally:
        # Shut the workers down now: an error's traceback would keep the loader alive.
        batches = iter(())


def to_device(value: Any, device: torch.device) -> Any:
    """Copy a batch to ``device``: the tensors in dataclasses, tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(
            value, **{f.name: to_device(getattr(value, f.name), device) for f in fields if f.init}
        )
    if isinstance(value, dict):
        return {key: to_device(element, device) for key, element in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(element, device) for element in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(element, device) for element in value)
    return value


class _StepDataset(Dataset[Any]):
    def __init__(self, make_batch: Callable[[int], Any], steps: range) -> None:
        self.make_batch, self.steps = make_batch, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Any:
        """Return the batch, or the error for the training process to raise.

        DataLoader would re-raise an error as another type and keep its workers alive.
        """
        try:
            return self.make_batch(self.steps[index])
        except LlavaStError as error:
            return error
        except Exception as error:
            traceback.print_exc()
            return DataError(
                f"a batch could not be made: {one_line(error)}", "see the traceback above"
            )


def _ignore_signals(_: int) -> None:
    """Leave signals to the loop: Ctrl-C reaches every process of the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
