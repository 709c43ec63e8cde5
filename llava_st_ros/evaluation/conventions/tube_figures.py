"""The figures that papers report for tubes: m_tIoU, m_vIoU, vIoU@0.3 and vIoU@0.5.

Conventions that have these figures differ in how the two values of a sample are computed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Convention, Prediction
from llava_st_ros.evaluation.metric_kinds import MeanMetric, Metric, above
from llava_st_ros.records import Task


def tube_metrics(convention: str) -> Sequence[Metric]:
    """Return the figures of a convention whose values are named tIoU and vIoU.

    >>> [metric.name for metric in tube_metrics("TubeDETR")]
    ['m_tIoU', 'm_vIoU', 'vIoU@0.3', 'vIoU@0.5']
    """
    tiou, viou = f"{convention} tIoU", f"{convention} vIoU"
    return (
        MeanMetric("m_tIoU", tiou, convention),
        MeanMetric("m_vIoU", viou, convention),
        MeanMetric("vIoU@0.3", viou, convention, transform=above(0.3)),
        MeanMetric("vIoU@0.5", viou, convention, transform=above(0.5)),
    )


class TubeConvention(Convention):
    """A convention with tIoU and vIoU of the tubes of STVG; without a predicted span both are 0."""

    def applies_to(self, sample: BenchmarkSample) -> bool:
        return sample.task is Task.STVG and sample.span is not None

    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return tIoU and vIoU."""
        tiou = viou = 0.0
        if prediction.span is not None and sample.span is not None:
            tiou, viou = self.ious(sample, prediction, sample.span, prediction.span)
        return {self.key("tIoU"): tiou, self.key("vIoU"): viou}

    @abstractmethod
    def ious(
        self,
        sample: BenchmarkSample,
        prediction: Prediction,
        annotated: tuple[int, int],
        predicted: tuple[int, int],
    ) -> tuple[float, float]:
        """Return tIoU and vIoU of a prediction with a span.

        Args:
            sample: The sample.
            prediction: The prediction.
            annotated: The sample's span: first and last frame, both included.
            predicted: The predicted span, in the same form.
        """
