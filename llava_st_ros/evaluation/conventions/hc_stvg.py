"""HC-STVG's own scorer: every frame of the video counts, ends are included.

Per video, with the annotated frames G, the predicted frames P that have a box, and the first and
last frame of each span (both included)::

    length = max(last_G, last_P) - min(first_G, first_P) + 1
    tIoU   = |G and P| / length
    vIoU   = sum over t in (G and P) of IoU(P_t, G_t) / length

A predicted frame without a box is missing from both. A video without a prediction has 0, 0. Figures
are means over all videos; vIoU@R is the share of videos with vIoU > R.

Source: eval_hcvg.py of github.com/tzhhhh123/HC-STVG.
"""

from __future__ import annotations

from llava_st_ros.evaluation.conventions.records import (
    BenchmarkSample,
    Prediction,
    box_iou,
)
from llava_st_ros.evaluation.conventions.tube_figures import TubeConvention, tube_metrics

NAME = "HC-STVG"


class HcStvg(TubeConvention):
    """The scorer that is published with HC-STVG."""

    name = NAME
    differs = (
        "all frames; ends included; a frame without a box is missing from tIoU and vIoU; "
        "no span: 0; vIoU > threshold"
    )
    metrics = tube_metrics(NAME)

    def ious(
        self,
        sample: BenchmarkSample,
        prediction: Prediction,
        annotated: tuple[int, int],
        predicted: tuple[int, int],
    ) -> tuple[float, float]:
        """Return tIoU and vIoU.

        >>> from llava_st_ros.evaluation.conventions.records import Dataset
        >>> from llava_st_ros.records import Box, Task
        >>> full, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
        >>> sample = BenchmarkSample("a", Dataset.HC_STVG, Task.STVG, 20, 1.0, 8, 8,
        ...     span=(4, 7), boxes=dict.fromkeys(range(4, 8), full))
        >>> prediction = Prediction((6, 9), dict.fromkeys(range(6, 10), left))
        >>> HcStvg().values(sample, prediction)  # frames 6 and 7 of 4..9, IoU 1/2
        {'HC-STVG tIoU': 0.3333333333333333, 'HC-STVG vIoU': 0.16666666666666666}
        """
        length = max(annotated[1], predicted[1]) - min(annotated[0], predicted[0]) + 1
        boxes = prediction.boxes_at(sample.boxes)
        total = sum(box_iou(box, sample.boxes[frame]) for frame, box in boxes.items())
        return len(boxes) / length, total / length
