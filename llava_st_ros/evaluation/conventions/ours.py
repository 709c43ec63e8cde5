"""This project's own convention: all frames, both ends included, what is missing counts as 0.

Tubes, over the frames of the video; G are the frames with an annotated box, P the frames of the
predicted span, or those with a predicted box if there is no span::

    tIoU = |spans' common frames| / |frames of either span|
    vIoU = sum over t in (G and P) of IoU(P_t, G_t) / |G or P|
    sIoU = sum over t in (G and P) of IoU(P_t, G_t) / |G and P|     SVG: / |G|

A predicted frame without a box has IoU 0. Frames inside the annotated span without an annotated box
(the object is hidden) are in neither G nor P. Boxes of frames that the model did not see are
interpolated (``Prediction.boxes_at``). Moments are scored as fractions of the video, images by one
box. vIoU and R1 count values > the threshold, sIoU and Acc values >= it: as published.

These are the values of ``scoring.score``, in frames of a video instead of time tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_st_ros.evaluation import metrics as formulas
from llava_st_ros.evaluation.conventions.charades_sta import moment_iou
from llava_st_ros.evaluation.conventions.records import (
    BenchmarkSample,
    Convention,
    Prediction,
    is_finite,
)
from llava_st_ros.evaluation.conventions.refcoco import image_iou
from llava_st_ros.evaluation.metric_kinds import OURS, MeanMetric, Metric, above, reaching
from llava_st_ros.evaluation.metrics import Tube
from llava_st_ros.records import Task


class Ours(Convention):
    """The convention of this project."""

    name = OURS
    differs = (
        "all frames; ends included; a missing box or answer is 0; frames where the object is "
        "hidden do not count; vIoU, R1 > threshold, sIoU, Acc >= threshold"
    )
    metrics: Sequence[Metric] = (
        MeanMetric("m_tIoU", f"{OURS} tIoU"),
        MeanMetric("m_vIoU", f"{OURS} vIoU"),
        MeanMetric("vIoU@0.3", f"{OURS} vIoU", transform=above(0.3)),
        MeanMetric("vIoU@0.5", f"{OURS} vIoU", transform=above(0.5)),
        MeanMetric("m_sIoU", f"{OURS} sIoU"),
        MeanMetric("sIoU@0.3", f"{OURS} sIoU", transform=reaching(0.3)),
        MeanMetric("sIoU@0.5", f"{OURS} sIoU", transform=reaching(0.5)),
        MeanMetric("mIoU", f"{OURS} moment IoU"),
        *(
            MeanMetric(f"R1@{t:g}", f"{OURS} moment IoU", transform=above(t))
            for t in (0.3, 0.5, 0.7)
        ),
        MeanMetric("Acc@0.5", f"{OURS} box IoU", transform=reaching(0.5)),
        MeanMetric("mIoU", f"{OURS} box IoU"),
        MeanMetric("parsed", f"{OURS} parsed"),
    )

    def applies_to(self, sample: BenchmarkSample) -> bool:
        return True

    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return the values of a tube, a moment or a box, and ``parsed``.

        >>> from llava_st_ros.evaluation.conventions.records import Dataset
        >>> from llava_st_ros.records import Box
        >>> full, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
        >>> sample = BenchmarkSample("a", Dataset.OTHER, Task.STVG, 20, 1.0, 8, 8,
        ...     span=(4, 7), boxes=dict.fromkeys(range(4, 8), full))
        >>> prediction = Prediction((6, 9), dict.fromkeys(range(6, 10), left))
        >>> for name, value in Ours().values(sample, prediction).items():
        ...     print(name, round(value, 4))
        llava_st_ros parsed 1.0
        llava_st_ros tIoU 0.3333
        llava_st_ros vIoU 0.1667
        llava_st_ros sIoU 0.5
        """
        values = {"parsed": float(prediction.parsed)} | self._scores(sample, prediction)
        return {self.key(name): value for name, value in values.items()}

    def _scores(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        if sample.task is Task.REC:
            return {"box IoU": image_iou(sample, prediction)}
        if sample.task is Task.TVG:
            return {"moment IoU": moment_iou(sample, prediction)}
        expected: Tube[int] = dict(sample.boxes)
        if sample.task is Task.SVG:
            found = _usable(prediction.boxes_at(expected))
            return {"sIoU": formulas.siou({t: found.get(t) for t in expected}, expected)}
        predicted = _predicted_tube(sample, prediction)
        tiou = 0.0
        if prediction.span is not None and sample.span is not None:
            spans = (formulas.frame_span(*span) for span in (prediction.span, sample.span))
            tiou = formulas.span_iou(*spans)
        values = {"tIoU": tiou, "vIoU": formulas.viou(predicted, expected)}
        if sample.task is Task.STVG:
            values["sIoU"] = formulas.siou(predicted, expected)
        return values


def _predicted_tube(sample: BenchmarkSample, prediction: Prediction) -> Tube[int]:
    """The tube over the frames of the predicted span, or of its boxes if there is no span."""
    span, annotated = prediction.span, sample.span
    frames = prediction.boxes.keys() if span is None else range(span[0], span[1] + 1)
    hidden = set() if annotated is None else set(range(annotated[0], annotated[1] + 1))
    hidden -= sample.boxes.keys()
    counted = [frame for frame in frames if frame not in hidden]
    boxes = _usable(prediction.boxes_at(counted))
    return {frame: boxes.get(frame) for frame in counted}


def _usable(boxes: Tube[int]) -> Tube[int]:
    """The boxes without NaN or infinite corners; the others have IoU 0, as if missing."""
    return {frame: box for frame, box in boxes.items() if box is not None and is_finite(box)}
