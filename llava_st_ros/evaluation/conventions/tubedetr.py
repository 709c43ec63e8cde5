"""TubeDETR's scorer, which most papers on HC-STVG and VidSTG report.

Frames are sampled at 5 per second, then at most 200 of these: S. Spans exclude their end. With the
annotated span G and the predicted span P::

    tIoU = |G and P| / |G or P|                                     in frames of the video
    vIoU = sum over t in S, G and P of IoU(P_t, G_t) / |S in hull|  at sampled frames

where hull is from the first start to the last end. The predicted end is the frame after the last
predicted one.

HC-STVG's files number frames from 1, and the scorer takes ``st_frame`` and
``st_frame + len(bbox)`` as frames numbered from 0: truth and prediction are shifted against each
other by one frame, so that a perfect prediction of L frames has tIoU (L - 1) / (L + 1). Its frames
are those before the last one of the video. In VidSTG frames are numbered from 0 and the annotated
end is excluded already.

The original stops where a frame of the truth has no predicted box, or the video has fewer than 5
frames per second; here such a frame has IoU 0, and such a video is used with all of its frames.

Source: datasets/hcstvg_eval.py, vidstg_eval.py, models/postprocessors.py and preproc/ of
github.com/antoyang/TubeDETR.
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

NAME = "TubeDETR"
SAMPLED_FPS = 5
MAX_FRAMES = 200


def sampled_frames(start: int, end: int, fps: float) -> list[int]:
    """Return the frames at which boxes are compared.

    A frame is sampled if it begins a new fifth of a second. Of n > 200 such frames, number
    (j * n) // 200 is used for j = 0..199.

    Args:
        start: The first frame; always sampled.
        end: The frame after the last candidate.
        fps: Frames per second of the video; 0 if unknown: all frames are used.

    >>> sampled_frames(0, 20, 10.0)
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    >>> frames = sampled_frames(0, 1200, 25.0)  # 240 fifths of a second
    >>> len(frames), frames[4:7]
    (200, [20, 30, 35])
    """
    rate = SAMPLED_FPS / fps if fps > 0 else 1.0
    frames = [start]
    for frame in range(start, end):
        if int(frames[-1] * rate) < int(frame * rate):
            frames.append(frame)
    count = len(frames)
    if count > MAX_FRAMES:
        frames = [frames[(j * count) // MAX_FRAMES] for j in range(MAX_FRAMES)]
    return frames


class TubeDetr(TubeConvention):
    """The scorer of TubeDETR."""

    name = NAME
    differs = (
        "5 frames/s, at most 200; end excluded, HC-STVG's truth one frame late; a missing box is "
        "IoU 0 (an error there); vIoU > threshold"
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
        ...     return list(TubeDetr().values(sample, Prediction((10, 29), boxes)).values())
        >>> perfect(Dataset.VIDSTG)
        [1.0, 1.0]
        >>> perfect(Dataset.HC_STVG) == [19 / 21, 19 / 21]
        True
        """
        shift = sample.dataset.first_frame_number
        start, end = frame_span(annotated[0] + shift, annotated[1] + shift)
        found = frame_span(*predicted)
        frames = self.frames(sample)
        union = [t for t in frames if min(start, found[0]) <= t < max(end, found[1])]
        common = [t for t in frames if start <= t < end and t - shift in sample.boxes]
        boxes = prediction.boxes_at(common)
        total = sum(box_iou(box, sample.boxes[t - shift]) for t, box in boxes.items())
        return span_iou((start, end), found), total / max(len(union), 1)

    def frames(self, sample: BenchmarkSample) -> list[int]:
        """Return the sampled frames of a sample."""
        start, last = sample.shown_segment
        end = last if sample.dataset is Dataset.HC_STVG else last + 1
        return sampled_frames(start, end, sample.fps)
