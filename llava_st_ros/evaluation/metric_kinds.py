"""Metrics over the cases of a run: how the values of single cases become one figure.

A case has values by key (``results.Case``): numbers, counts (numerator and denominator) and
samples. A metric names one key and how it is aggregated. Every metric belongs to a convention, as
figures of different conventions are not comparable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llava_st_ros.evaluation.reliability import bins_of

if TYPE_CHECKING:
    from llava_st_ros.evaluation.results import Case

OURS = "llava_st_ros"  # the name of this project's own convention
RESAMPLES = 2000
CONFIDENCE = 0.95
BATCH = 1 << 20  # indices of cases in memory at a time


def resamples(cases: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the bootstrap's indices of cases, RESAMPLES rows in all, in batches of bounded size.

    Args:
        cases: Number of cases, at least one.
        seed: Seed of the resampling, so that a report is reproducible.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, BATCH // cases)
    for first in range(0, RESAMPLES, rows):
        yield generator.integers(0, cases, (min(rows, RESAMPLES - first), cases))


def percentile_interval(figures: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled figures; NaN if all are undefined.

    Args:
        figures: float64 [resamples]; those that are NaN are ignored.
    """
    defined = figures[~np.isnan(figures)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1.0 - tail))
    return float(low), float(high)


@dataclass(frozen=True)
class Metric(ABC):
    """A figure computed from cases.

    Attributes:
        name: Its published name.
        key: The key of the cases' values.
        convention: The scoring convention that the values follow.
        unit: Its unit; empty for shares and IoUs.
        lower_is_better: Whether smaller values are better (delays, false events).
    """

    name: str
    key: str
    convention: str = OURS
    unit: str = ""
    lower_is_better: bool = False

    @abstractmethod
    def applies_to(self, case: Case) -> bool:
        """Return whether the case has the metric's key."""

    @abstractmethod
    def of_resamples(self, cases: Sequence[Case], indices: np.ndarray) -> np.ndarray:
        """Return the figure of each resample.

        Args:
            cases: Cases to which the metric applies.
            indices: Indices of cases, [resamples, cases]; repeated ones count repeatedly.

        Returns:
            float64 [resamples]; NaN where a figure is undefined (no event, no sample).
        """

    def value(self, cases: Sequence[Case]) -> float:
        """Return the figure of all cases; NaN if it is undefined."""
        return float(self.of_resamples(cases, np.arange(len(cases))[None])[0])

    def interval(self, cases: Sequence[Case], *, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval: cases are resampled with replacement."""
        figures = np.concatenate(
            [self.of_resamples(cases, indices) for indices in resamples(len(cases), seed)]
        )
        return percentile_interval(figures)


@dataclass(frozen=True)
class MeanMetric(Metric):
    """The mean of ``transform(value)`` over cases."""

    transform: Callable[[float], float] = float

    def applies_to(self, case: Case) -> bool:
        return self.key in case.values

    def of_resamples(self, cases: Sequence[Case], indices: np.ndarray) -> np.ndarray:
        values = np.array([self.transform(case.values[self.key]) for case in cases], np.float64)
        return values[indices].mean(axis=1)


@dataclass(frozen=True)
class RatioMetric(Metric):
    """The sum of numerators divided by the sum of denominators: shares of time, rates an hour."""

    def applies_to(self, case: Case) -> bool:
        return self.key in case.counts

    def of_resamples(self, cases: Sequence[Case], indices: np.ndarray) -> np.ndarray:
        counts = np.array([case.counts[self.key] for case in cases], np.float64)
        above, below = counts[indices].sum(axis=1).T
        return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


@dataclass(frozen=True)
class QuantileMetric(Metric):
    """A quantile of the samples of all cases together: p50 and p90 of delays."""

    quantile: float = 0.5

    def applies_to(self, case: Case) -> bool:
        return self.key in case.samples

    def of_resamples(self, cases: Sequence[Case], indices: np.ndarray) -> np.ndarray:
        pooled, owners = _pooled(cases, self.key)
        order = np.argsort(pooled, kind="stable")
        pooled, owners = pooled[order], owners[order]
        figures = np.full(len(indices), np.nan)
        for row, chosen in enumerate(indices):
            # How often each sample is drawn determines where an order statistic is, without a sort.
            ends = np.cumsum(np.bincount(chosen, minlength=len(cases))[owners])
            if len(ends) and ends[-1]:
                place = self.quantile * (ends[-1] - 1)
                ranks = np.floor(place), np.ceil(place)
                low, high = pooled[np.searchsorted(ends, ranks, side="right")]
                figures[row] = low + (high - low) * (place - ranks[0])
        return figures


@dataclass(frozen=True)
class TwoSampleMetric(Metric):
    """A figure of two sets of samples, each of all cases together.

    Attributes:
        key: The key of the samples of positives.
        negatives: The key of the samples of negatives.
    """

    negatives: str = ""

    def applies_to(self, case: Case) -> bool:
        return self.key in case.samples or self.negatives in case.samples

    def of_resamples(self, cases: Sequence[Case], indices: np.ndarray) -> np.ndarray:
        positives, owners = _pooled(cases, self.key)
        negatives, negative_owners = _pooled(cases, self.negatives)
        values, places = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
        above, below = places[: len(positives)], places[len(positives) :]
        figures = np.full(len(indices), np.nan)
        for row, chosen in enumerate(indices):
            drawn = np.bincount(chosen, minlength=len(cases)).astype(np.float64)
            hits = np.bincount(above, drawn[owners], len(values))
            others = np.bincount(below, drawn[negative_owners], len(values))
            figures[row] = self._figure(values, hits, others)
        return figures

    @abstractmethod
    def _figure(self, values: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
        """Return the figure; NaN if it is undefined.

        Args:
            values: The distinct values, in order, float64 [P].
            positives: How often each is drawn as a positive, float64 [P].
            negatives: How often each is drawn as a negative, float64 [P].
        """


@dataclass(frozen=True)
class AurocMetric(TwoSampleMetric):
    """The area under the ROC curve of two sets of samples, each of all cases together.

        AUROC = mean over positives p and negatives n of (1 if p > n, 1/2 if p = n, else 0)

    It is the probability that a positive has the higher value; 0.5 is chance.
    """

    def _figure(self, values: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
        pairs = positives.sum() * negatives.sum()
        if not pairs:
            return float("nan")
        lower = np.cumsum(negatives) - negatives
        return float((positives * (lower + negatives / 2)).sum() / pairs)


@dataclass(frozen=True)
class CalibrationErrorMetric(TwoSampleMetric):
    """The expected calibration error of the probabilities of positives and negatives.

    As ``reliability.expected_calibration_error``, where positives are the right predictions.
    """

    def _figure(self, values: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
        count = positives.sum() + negatives.sum()
        if not count:
            return float("nan")
        bins = bins_of(values)
        expected = np.bincount(bins, (positives + negatives) * values)
        found = np.bincount(bins, positives, len(expected))
        return float(np.abs(found - expected).sum() / count)


def _pooled(cases: Sequence[Case], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of all cases (float64 [N]) and the index of the case of each."""
    samples = [np.asarray(case.samples.get(key, ()), np.float64) for case in cases]
    owners = np.repeat(np.arange(len(cases)), [len(values) for values in samples])
    return np.concatenate([*samples, np.empty(0)]), owners


@dataclass(frozen=True)
class Threshold:
    """A transform: 1 for a value that passes a threshold, else 0.

    Attributes:
        value: The threshold.
        inclusive: Whether a value equal to it passes.

    >>> above(0.5)(0.5), reaching(0.5)(0.5)
    (0.0, 1.0)
    """

    value: float
    inclusive: bool

    def __call__(self, value: float) -> float:
        return float(value >= self.value if self.inclusive else value > self.value)


def above(threshold: float) -> Threshold:
    """Return a transform: 1 for a value > ``threshold``: vIoU@R (HC-STVG), R1@m (Charades-STA)."""
    return Threshold(threshold, inclusive=False)


def reaching(threshold: float) -> Threshold:
    """Return a transform: 1 for a value >= ``threshold``: Acc@0.5 (RefCOCO), sIoU@R (ST-Align)."""
    return Threshold(threshold, inclusive=True)
