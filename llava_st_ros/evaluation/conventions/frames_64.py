"""The scorer of CG-STVG and TA-STVG, whose models see 64 frames in each of two passes.

The predicted boxes of the frames that the model saw are interpolated linearly to every frame
between the first and the last of these; every frame of the video counts. The formulas are
TubeDETR's, over all frames instead of 5 per second::

    tIoU = |G and P| / |G or P|
    vIoU = sum over t in (G and P) of IoU(P_t, G_t) / |hull of G and P|

The predicted end is excluded: it is the frame after the last predicted one. HC-STVG's truth is
numbered from 0 there (``st_frame - 1``), but its last frame is used as an excluded end: it is lost,
and a perfect prediction of L frames has tIoU (L - 1) / L. In VidSTG the annotated end is the
excluded one.

The scorer of VidSTG in CG-STVG stops where a frame of the truth has no box; elsewhere, and here,
such a frame has IoU 0.

Source: datasets/hcstvg.py, datasets/vidstg.py, datasets/evaluation/ and engine/evaluate.py of
github.com/HengLan/CGSTVG and github.com/HengLan/TA-STVG.
"""

from __future__ import annotations

from llava_st_ros.evaluation.conventions.records import (
    BenchmarkSample,
    Dataset,
    Prediction,
    box_iou,
)
from llava_st_ros.evaluation.conventions.tube_figures import TubeConvention, tube_metrics
from llava_st_ros.evaluation.metrics import frame_span, span_iou

NAME = "64-frame"


class Frames64(TubeConvention):
    """The scorer of CG-STVG and TA-STVG."""

    name = NAME
    differs = (
        "CG-STVG, TA-STVG: all frames, boxes interpolated between the model's own; end excluded, "
        "the last frame of HC-STVG's truth is lost; vIoU > threshold"
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

        >>> from llava_st_ros.records import Box, Task
        >>> full = Box(0, 0, 1, 1)
        >>> boxes = dict.fromkeys(range(10, 30), full)
        >>> def perfect(dataset):
        ...     sample = BenchmarkSample("a", dataset, Task.STVG, 100, 5.0, 8, 8, (10, 29), boxes)
        ...     prediction = Prediction((10, 29), {10: full, 29: full}, (10, 29))
        ...     return list(Frames64().values(sample, prediction).values())
        >>> perfect(Dataset.VIDSTG), perfect(Dataset.HC_STVG)
        ([1.0, 1.0], [0.95, 0.95])
        """
        lost = 1 if sample.dataset is Dataset.HC_STVG else 0
        start, end = frame_span(annotated[0], annotated[1] - lost)
        found = frame_span(*predicted)
        hull = max(end, found[1]) - min(start, found[0])
        # Boxes are interpolated over everything: a frame without one is bridged.
        dense = Prediction(predicted, prediction.boxes)
        boxes = dense.boxes_at(t for t in sample.boxes if start <= t < end)
        total = sum(box_iou(box, sample.boxes[t]) for t, box in boxes.items())
        return span_iou((start, end), found), total / max(hull, 1)
