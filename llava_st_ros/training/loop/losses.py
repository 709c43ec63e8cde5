"""Loss terms that several processes can add up exactly.

The mean over a batch that is sharded over processes is the sum of their numerators divided by the
sum of their denominators. Averaging the processes' own means would be wrong wherever the
denominators differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LossTerm(NamedTuple):
    """A weighted mean, kept as numerator and denominator until all processes' parts are summed.

    Attributes:
        numerator: Sum over this process's shard of the batch, a float32 scalar.
        denominator: What to divide by, usually the number of summed values, a float32 scalar. The
            loop sums it over processes.
        weight: Weight of the mean in the loss. 0: only logged, and ``numerator`` has no gradient.
    """

    numerator: Tensor
    denominator: Tensor
    weight: float = 1.0


# Every process returns the same names for a batch. A process with nothing to sum returns a
# denominator of 0.
LossTerms = dict[str, LossTerm]


def weighted_sum(terms: LossTerms, denominators: Sequence[Tensor]) -> Tensor:
    """Return the loss, a float32 scalar.

    Args:
        terms: The terms of this process.
        denominators: The denominator of each term, summed over all processes. A term whose
            denominator is 0 adds 0 to the loss, with a gradient of 0.
    """
    loss = torch.zeros(())
    for term, denominator in zip(terms.values(), denominators):
        if term.weight:
            divisor = torch.where(denominator > 0, denominator, 1.0).float()
            loss = loss + term.weight * term.numerator / divisor
    return loss


def mean_term(values: Tensor, weight: float = 1.0) -> LossTerm:
    """The mean of ``values`` (any shape, may be empty) as a term of the loss."""
    count = torch.tensor(float(values.numel()), device=values.device)
    return LossTerm(values.sum(), count, weight)


def logged_ratio(numerator: Tensor, denominator: Tensor) -> LossTerm:
    """The ratio of two scalars of any dtype, only logged."""
    return LossTerm(numerator.detach().float(), denominator.detach().float(), 0.0)


def logged_mean(values: Tensor) -> LossTerm:
    """The mean of ``values`` (any shape, may be empty), only logged."""
    return mean_term(values.detach().float(), 0.0)
