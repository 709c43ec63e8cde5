"""What a training step returns: means in parts, which many processes can add up.

A mean over a batch that is spread over processes is the sum of the parts' totals over the sum of
their counts; the mean of the parts' means is another number wherever the counts differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """A mean in parts: ``total / count`` over the whole batch; ``weight`` is its share of the loss.

    ``total`` and ``count`` are scalars f32, summed over this process's part of the batch; the loop
    sums the counts over processes. Weight 0: only logged, and ``total`` has no gradient.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0


# Every process returns the same names for a batch; where it has nothing to count, a count of 0.
Terms = dict[str, Term]


def weighted_sum(terms: Terms, counts: Sequence[Tensor]) -> Tensor:
    """The loss, f32: terms in their order, each divided by its count over all processes.

    A term that counts nothing is 0, with a gradient of 0.
    """
    loss = torch.zeros(())
    for term, count in zip(terms.values(), counts):
        if term.weight:
            loss = loss + term.weight * term.total / torch.where(count > 0, count, 1.0).float()
    return loss


def mean(values: Tensor, weight: float = 1.0) -> Term:
    """The mean of ``values`` (any shape, also empty) as a term of the loss."""
    return Term(values.sum(), torch.tensor(float(values.numel()), device=values.device), weight)


def logged(total: Tensor, count: Tensor) -> Term:
    """``total / count`` to log only; both any dtype."""
    return Term(total.detach().float(), count.detach().float(), 0.0)


def logged_mean(values: Tensor) -> Term:
    """The mean of ``values`` (any shape, also empty) to log only."""
    return mean(values.detach().float(), 0.0)
