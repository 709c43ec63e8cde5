"""The figures that papers report for tubes: m_tIoU, m_vIoU, vIoU@0.3 and vIoU@0.5."""

from __future__ import annotations

from collections.abc import Sequence

from llava_st_ros.evaluation.metric_kinds import MeanMetric, Metric, above


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


def half_open_iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Return the IoU of two spans of frame numbers whose ends are excluded; 0 if they are apart.

    >>> half_open_iou((0, 4), (2, 6)), half_open_iou((0, 4), (4, 6)), half_open_iou((3, 3), (3, 3))
    (0.3333333333333333, 0.0, 0.0)
    """
    intersection = min(a[1], b[1]) - max(a[0], b[0])
    if intersection <= 0:
        return 0.0
    return intersection / ((a[1] - a[0]) + (b[1] - b[0]) - intersection)
