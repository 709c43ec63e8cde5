"""How a metric is computed, as plain values: a file of results has it for each of its figures.

A figure that is read from a file can therefore be computed again from its cases, or from some of
them, whichever program wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.metric_kinds import (
    AurocMetric,
    CalibrationErrorMetric,
    MeanMetric,
    Metric,
    QuantileMetric,
    RatioMetric,
    Threshold,
    above,
    reaching,
)


@dataclass(frozen=True)
class MetricDefinition:
    """The aggregation of a metric.

    Attributes:
        kind: "mean" of values, "ratio" of the sums of numerators and denominators, "quantile" of
            all samples, "auroc" or "calibration_error" of two sets of samples.
        key: The key of the cases' values.
        above: The mean is the share of values > this.
        reaching: The mean is the share of values >= this.
        quantile: The quantile, in [0, 1].
        negatives: The key of the negatives, of which ``key`` is that of the positives.

    Raises:
        DataError: A quantile is missing or not in [0, 1], or negatives are missing.
    """

    kind: Literal["mean", "ratio", "quantile", "auroc", "calibration_error"]
    key: str
    above: float | None = None
    reaching: float | None = None
    quantile: float | None = None
    negatives: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "quantile" and (self.quantile is None or not 0 <= self.quantile <= 1):
            raise DataError(
                f"the metric of {self.key!r} has quantile {self.quantile}; expected 0 to 1"
            )
        if self.kind in ("auroc", "calibration_error") and not self.negatives:
            raise DataError(f"the {self.kind} of {self.key!r} has no negatives")

    def __str__(self) -> str:
        """Return the definition in words.

        >>> print(MetricDefinition("mean", "vIoU", above=0.3))
        share of vIoU > 0.3
        """
        if self.kind == "ratio":
            return f"ratio of {self.key}"
        if self.kind == "calibration_error":
            return f"ECE of {self.key} and {self.negatives}"
        if self.kind == "auroc":
            return f"AUROC of {self.key} against {self.negatives}"
        if self.kind == "quantile":
            return f"p{100 * (self.quantile or 0.0):g} of {self.key}"
        if self.above is not None:
            return f"share of {self.key} > {self.above:g}"
        if self.reaching is not None:
            return f"share of {self.key} >= {self.reaching:g}"
        return f"mean of {self.key}"


def definition_of(metric: Metric) -> MetricDefinition | None:
    """Return a metric's definition; None if it is of a kind or transform that has none."""
    if isinstance(metric, RatioMetric):
        return MetricDefinition("ratio", metric.key)
    if isinstance(metric, QuantileMetric):
        return MetricDefinition("quantile", metric.key, quantile=metric.quantile)
    if isinstance(metric, AurocMetric):
        return MetricDefinition("auroc", metric.key, negatives=metric.negatives)
    if isinstance(metric, CalibrationErrorMetric):
        return MetricDefinition("calibration_error", metric.key, negatives=metric.negatives)
    if not isinstance(metric, MeanMetric):
        return None
    if isinstance(metric.transform, Threshold):
        if metric.transform.inclusive:
            return MetricDefinition("mean", metric.key, reaching=metric.transform.value)
        return MetricDefinition("mean", metric.key, above=metric.transform.value)
    return MetricDefinition("mean", metric.key) if metric.transform is float else None


def defined_metric(
    definition: MetricDefinition, name: str, convention: str, unit: str, lower_is_better: bool
) -> Metric:
    """Return the metric of a definition, with its name, convention and unit."""
    common = (name, definition.key, convention, unit, lower_is_better)
    if definition.kind == "ratio":
        return RatioMetric(*common)
    if definition.kind == "quantile":
        return QuantileMetric(*common, quantile=definition.quantile or 0.0)
    if definition.kind == "auroc":
        return AurocMetric(*common, negatives=definition.negatives or "")
    if definition.kind == "calibration_error":
        return CalibrationErrorMetric(*common, negatives=definition.negatives or "")
    if definition.above is not None:
        return MeanMetric(*common, transform=above(definition.above))
    if definition.reaching is not None:
        return MeanMetric(*common, transform=reaching(definition.reaching))
    return MeanMetric(*common)
