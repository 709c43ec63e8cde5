"""RefCOCO, RefCOCO+ and RefCOCOg: the IoU of one box, every expression counts.

::

    Acc@0.5 = share of expressions with IoU >= 0.5

An answer without a box is 0. (LLaVA-ST's scorer leaves it out of the mean: ``llava_st``.)

Source: the evaluation of LLaVA-ST (inference/src/metrics.py of github.com/appletea233/LLaVA-ST) for
the threshold.
"""

from __future__ import annotations

from llava_st_ros.evaluation.conventions.records import (
    IMAGE,
    BenchmarkSample,
    Convention,
    Prediction,
    box_iou,
)
from llava_st_ros.evaluation.metric_kinds import MeanMetric, reaching
from llava_st_ros.records import Task

NAME = "RefCOCO"


def image_iou(sample: BenchmarkSample, prediction: Prediction) -> float:
    """Return the IoU of the boxes of an image; 0 without a predicted box."""
    predicted = prediction.boxes.get(IMAGE)
    return box_iou(predicted, sample.boxes[IMAGE]) if predicted is not None else 0.0


class RefCoco(Convention):
    """Acc@0.5 of referring expressions."""

    name = NAME
    differs = "one box, unrounded; no box: 0; Acc >= threshold"
    metrics = (
        MeanMetric("Acc@0.5", f"{NAME} box IoU", NAME, transform=reaching(0.5)),
        MeanMetric("mIoU", f"{NAME} box IoU", NAME),
    )

    def applies_to(self, sample: BenchmarkSample) -> bool:
        return sample.task is Task.REC

    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return the IoU of the box.

        >>> from llava_st_ros.evaluation.conventions.records import Dataset
        >>> from llava_st_ros.records import Box
        >>> sample = BenchmarkSample("a", Dataset.REFCOCO, Task.REC, 1, 0.0, 8, 8,
        ...     boxes={IMAGE: Box(0, 0, 1, 1)})
        >>> RefCoco().values(sample, Prediction(boxes={IMAGE: Box(0, 0, 0.5, 1)}))
        {'RefCOCO box IoU': 0.5}
        """
        return {self.key("box IoU"): image_iou(sample, prediction)}
