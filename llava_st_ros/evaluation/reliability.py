"""Are probabilities frequencies? Bins of a reliability diagram and the expected calibration error.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017: N predictions are divided into bins
of equal width by their probability; with the mean probability p_b and the frequency f_b of right
ones among the n_b predictions of bin b,

    ECE = sum over bins b of n_b / N |f_b - p_b|
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose probability is in one interval.

    Attributes:
        count: Their number.
        probability: Their mean probability.
        frequency: The share of them that are right.
    """

    count: int
    probability: float
    frequency: float


def bins_of(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the number of the bin of each probability, int [N]; the last bin contains 1."""
    return np.minimum((probabilities * bins).astype(int), bins - 1)


def reliability(
    probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS
) -> list[ReliabilityBin]:
    """Return the bins that are not empty, in order.

    Args:
        probabilities: float [N] in [0, 1].
        outcomes: bool [N].
        bins: Number of intervals.

    >>> reliability(np.array([0.1, 0.3, 0.9]), np.array([False, True, True]), bins=2)
    ... # doctest: +ELLIPSIS
    [ReliabilityBin(count=2, probability=0.2, frequency=0.5), ReliabilityBin(count=1, ...)]
    """
    places = bins_of(probabilities, bins)
    found = []
    for number in range(bins):
        chosen = places == number
        if chosen.any():
            found.append(
                ReliabilityBin(
                    int(chosen.sum()),
                    float(probabilities[chosen].mean()),
                    float(outcomes[chosen].mean()),
                )
            )
    return found


def expected_calibration_error(
    probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS
) -> float:
    """Return the ECE; NaN without predictions. Arguments are those of ``reliability``."""
    found = reliability(probabilities, outcomes, bins)
    if not found:
        return float("nan")
    gaps = sum(each.count * abs(each.frequency - each.probability) for each in found)
    return gaps / sum(each.count for each in found)


def brier_score(probabilities: np.ndarray, outcomes: np.ndarray) -> float:
    """Return the mean squared difference of probability and outcome (Brier, 1950).

    >>> brier_score(np.array([0.5, 1.0]), np.array([True, True]))
    0.125
    """
    return float(np.mean((probabilities - outcomes) ** 2))
