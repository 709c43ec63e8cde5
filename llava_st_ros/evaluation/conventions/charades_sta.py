"""Charades-STA: spans as fractions of the video (or seconds, which gives the same).

::

    IoU  = |G and P| / |G or P|       R1@m = share of samples with IoU > m

An answer without a span is 0. The code of TALL, where R1@m is from, counts IoU >= m; this is the
threshold of LLaVA-ST.

Source: TALL, arXiv 1705.02101; inference/src/metrics.py of github.com/appletea233/LLaVA-ST.
"""

from __future__ import annotations

from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.conventions.records import (
    BenchmarkSample,
    Convention,
    Prediction,
)
from llava_st_ros.evaluation.metric_kinds import MeanMetric, above
from llava_st_ros.records import Task

NAME = "Charades-STA"


def moment_iou(sample: BenchmarkSample, prediction: Prediction) -> float:
    """Return the IoU of the annotated and the predicted span, as fractions; 0 without a span."""
    truth = sample.span_fractions()
    predicted = prediction.span_fractions(sample.shown_segment)
    if truth is None or predicted is None:
        return 0.0
    return metrics.span_iou(predicted, truth)


class CharadesSta(Convention):
    """R1@m and mIoU of moments."""

    name = NAME
    differs = "spans as fractions of the video, unrounded; no span: 0; R1 > threshold (TALL: >=)"
    metrics = (
        MeanMetric("mIoU", f"{NAME} moment IoU", NAME),
        *(
            MeanMetric(f"R1@{t:g}", f"{NAME} moment IoU", NAME, transform=above(t))
            for t in (0.3, 0.5, 0.7)
        ),
    )

    def applies_to(self, sample: BenchmarkSample) -> bool:
        return sample.task is Task.TVG

    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return the IoU of the moment.

        >>> from llava_st_ros.evaluation.conventions.records import Dataset
        >>> sample = BenchmarkSample("a", Dataset.CHARADES_STA, Task.TVG, 100, 25.0, 8, 8,
        ...     fractions=(0.25, 0.75))
        >>> CharadesSta().values(sample, Prediction(fractions=(0.5, 1.0)))
        {'Charades-STA moment IoU': 0.3333333333333333}
        """
        return {self.key("moment IoU"): moment_iou(sample, prediction)}
