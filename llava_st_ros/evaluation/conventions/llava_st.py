"""LLaVA-ST's own scorer: ST-Align (STVG, SVG, ELC), Charades-STA and RefCOCO.

ST-Align. S is the set of frames that the model saw (100, evenly spaced, first and last included).
G_t are the annotated boxes at frames of S, in pixels; the others are dropped. P_t are the predicted
boxes in pixels, each corner rounded to a whole pixel; the corners of G_t are not rounded::

    tIoU = |G and P| / |hull|           on fractions of the segment: truth rounded to 3 decimals,
                                        prediction to 5
    sIoU = sum of IoU(P_t, G_t) / |frames of both|       its "m_siou"
    vIoU = sum of IoU(P_t, G_t) / |frames of either|     its "m_stiou", printed as viou@R

The predicted boxes count whether or not they are inside the predicted span. Shares are of values
>= the threshold. sIoU is not vIoU: it ignores when the object is annotated.

RefCOCO: answers without a box are left out of the mean; truth is rounded to 3 decimals and clipped
to the image. Charades-STA: an answer without a span is 0, shares are of values > the threshold.

What the original does with data, and this package does not: it uses the first 2,000 entries of a
file (here ``--n 2000``), and scores the next sample in place of one whose video cannot be read;
here such a sample counts as 0. As loading changes the records in place, a sample that had replaced
another is then read a second time with boxes converted twice. It reads spans only where they are
written as ``{start,end}``, so an ELC answer "Ends in e" has tIoU 0 there; here its span counts. It
stops at a truth of one frame that is predicted exactly (a division by 0; here 0).

Source: inference/src/metrics.py, utils.py and datasets.py of github.com/appletea233/LLaVA-ST.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llava_st_ros.evaluation.conventions.records import (
    IMAGE,
    BenchmarkSample,
    Convention,
    Prediction,
    is_finite,
)
from llava_st_ros.evaluation.metric_kinds import MeanMetric, Metric, above, reaching
from llava_st_ros.records import Box, Task

NAME = "LLaVA-ST"
FRAMES = 100
THRESHOLDS = (0.3, 0.5, 0.7)
TRUTH_DIGITS, PREDICTION_DIGITS = 3, 5


def sampled_frames(segment: tuple[int, int], count: int = FRAMES) -> list[int]:
    """Return the frames that the model sees: evenly spaced, first and last included.

    >>> sampled_frames((10, 20), 5)
    [10, 12, 15, 18, 20]
    """
    first, last = segment
    return [first + round((i / (count - 1)) * (last - first)) for i in range(count)]


def hull_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the overlap of two spans divided by the length from the first start to the last end.

    The same as the IoU where they overlap, and 0 where they do not or both have no length.

    >>> hull_iou((0.0, 0.5), (0.25, 1.0)), hull_iou((0.5, 0.5), (0.5, 0.5))
    (0.25, 0.0)
    """
    length = max(a[1], b[1]) - min(a[0], b[0])
    return max(min(a[1], b[1]) - max(a[0], b[0]), 0.0) / length if length > 0 else 0.0


def pixel_iou(predicted: Box, expected: Box, width: int, height: int) -> float:
    """Return the IoU in pixels, the predicted corners rounded to whole ones.

    0 for a predicted box with a NaN or infinite corner.

    >>> pixel_iou(Box(0, 0, 0.26, 1), Box(0, 0, 0.26, 1), 10, 10)  # 3 pixels against 2.6
    0.8666666666666667
    """
    pixels = predicted.to_pixels(width, height)
    if not all(map(math.isfinite, pixels)):
        return 0.0
    rounded = Box(*(float(round(value)) for value in pixels))
    return rounded.iou(Box(*expected.to_pixels(width, height)))


def _shares(name: str, value: str, inclusive: bool = True) -> tuple[Metric, ...]:
    passes = reaching if inclusive else above
    return tuple(
        MeanMetric(f"{name}@{t:g}", f"{NAME} {value}", NAME, transform=passes(t))
        for t in THRESHOLDS
    )


class LlavaSt(Convention):
    """The scorer of LLaVA-ST."""

    name = NAME
    differs = (
        "truth at the frames shown to the model only; predicted boxes rounded to whole pixels; "
        "tIoU on rounded fractions; tubes >= threshold; RefCOCO: answers without a box are left "
        "out of the mean; unreadable videos are 0 (replaced by the next sample there)"
    )
    metrics: Sequence[Metric] = (
        MeanMetric("m_tIoU", f"{NAME} tIoU", NAME),
        *_shares("tIoU", "tIoU"),
        MeanMetric("m_sIoU", f"{NAME} sIoU", NAME),
        *_shares("sIoU", "sIoU"),
        MeanMetric("m_vIoU", f"{NAME} vIoU", NAME),
        *_shares("vIoU", "vIoU"),
        MeanMetric("mIoU", f"{NAME} moment IoU", NAME),
        *_shares("R1", "moment IoU", inclusive=False),
        MeanMetric("Acc@0.5", f"{NAME} box IoU", NAME, transform=reaching(0.5)),
        MeanMetric("mIoU", f"{NAME} box IoU", NAME),
    )

    def applies_to(self, sample: BenchmarkSample) -> bool:
        return True

    def values(self, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
        """Return tIoU, sIoU and vIoU of a tube, the IoU of a moment, or that of a box."""
        if sample.task is Task.REC:
            values = _box_values(sample, prediction)
        elif sample.task is Task.TVG:
            truth = sample.span_fractions()
            values = {"moment IoU": _span_iou(truth, sample, prediction)}
        else:
            values = _tube_values(sample, prediction)
        return {self.key(name): value for name, value in values.items()}


def _tube_values(sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
    values = {}
    if sample.task is not Task.SVG:
        fractions = sample.span_fractions()
        truth = fractions and (round(fractions[0], TRUTH_DIGITS), round(fractions[1], TRUTH_DIGITS))
        values["tIoU"] = _span_iou(truth, sample, prediction)
    shown = set(prediction.shown or sampled_frames(sample.shown_segment))
    expected = {frame: box for frame, box in sample.boxes.items() if frame in shown}
    common = expected.keys() & prediction.boxes.keys()
    total = sum(
        pixel_iou(prediction.boxes[t], expected[t], sample.width, sample.height)
        for t in sorted(common)
    )
    values["sIoU"] = total / max(len(common), 1)
    values["vIoU"] = total / max(len(expected.keys() | prediction.boxes.keys()), 1)
    return values


def _span_iou(
    truth: tuple[float, float] | None, sample: BenchmarkSample, prediction: Prediction
) -> float:
    predicted = prediction.span_fractions(sample.shown_segment)
    if predicted is None or truth is None:
        return 0.0
    start, end = (round(value, PREDICTION_DIGITS) for value in predicted)
    return hull_iou((start, end), truth)


def _box_values(sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
    predicted = prediction.boxes.get(IMAGE)
    if predicted is None:
        return {}
    if not is_finite(predicted):
        return {"box IoU": 0.0}
    rounded = Box(*(round(value, PREDICTION_DIGITS) for value in _corners(predicted)))
    truth = Box(*(round(value, TRUTH_DIGITS) for value in _corners(sample.boxes[IMAGE])))
    return {"box IoU": rounded.iou(truth.clipped())}


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x1, box.y1, box.x2, box.y2
