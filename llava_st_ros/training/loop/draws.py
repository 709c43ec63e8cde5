"""The random generators of the items of a stage's batches, and batches that are joined for a GPU.

A recipe numbers its batches, and each item of each batch has a generator of its own (item_rng).
A small batch leaves a GPU idle, so ``grow`` batches of the recipe can be joined into one step. The
items stay those of the recipe, whatever the growth and the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from llava_st_ros.errors import ConfigError
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard, item_rng


class Draws:
    """The generators of every step's items.

    Args:
        seed: Seeds every draw.
        size: Items in a batch of the recipe, over all processes.
        shard: This process's items.
        grow: Batches of the recipe in a step.
        kind: Returns the kind of a batch from the generator of the draws that its items share.
            Only batches of equal kind are joined.

    Raises:
        ConfigError: ``grow`` is less than 1.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        shard: Shard = FULL_SHARD,
        grow: int = 1,
        kind: Callable[[np.random.Generator], Hashable] = lambda _: None,
    ) -> None:
        if grow < 1:
            raise ConfigError(f"grow is {grow}; expected at least 1")
        self.seed, self.size, self.shard, self.grow = seed, size, shard, grow
        self._kind = kind
        self._steps: list[tuple[int, ...]] = []
        self._waiting: dict[Hashable, list[int]] = {}  # by kind, less than ``grow`` of each
        self._next = 0

    def batches(self, step: int) -> tuple[int, ...]:
        """Return the recipe's batches that are joined in a step.

        Batches are taken in their order. A step is complete when ``grow`` batches of one kind are
        waiting, so all steps have the same size, and a batch is at most a few steps early or late.
        """
        while len(self._steps) <= step:
            waiting = self._waiting.setdefault(self._kind(self._shared(self._next)), [])
            waiting.append(self._next)
            self._next += 1
            if len(waiting) == self.grow:
                self._steps.append(tuple(waiting))
                waiting.clear()
        return self._steps[step]

    def kind(self, step: int) -> Hashable:
        """Return the kind of a step's batches."""
        return self._kind(self._shared(self.batches(step)[0]))

    def items(self, step: int) -> list[np.random.Generator]:
        """Return the generator of each of this process's items of a step."""
        batches = self.batches(step)
        return [
            item_rng(self.seed, batches[item // self.size], item % self.size)
            for item in self.shard.items(self.size * self.grow)
        ]

    def _shared(self, batch: int) -> np.random.Generator:
        return item_rng(self.seed, batch, self.size)
