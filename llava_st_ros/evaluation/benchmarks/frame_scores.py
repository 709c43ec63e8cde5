"""This project's own scores of a benchmark's answers: over all frames of the video.

The values are those of ``scoring.score``, with the video's frames in place of time tokens; boxes
between sampled frames are interpolated (``answers.dense_tube``). A moment is scored in time: that
of the first and of the last answered frame.
"""

from __future__ import annotations

from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.benchmarks.answers import (
    answered_boxes,
    answered_span,
    dense_tube,
)
from llava_st_ros.evaluation.benchmarks.media import Clip
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkSample,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.evaluation.scoring import score
from llava_st_ros.records import NANOSECONDS, Answer, Task

ATTRIBUTES = ("attributes", "caption")  # of simulated clips only


def score_sample(sample: BenchmarkSample, answer: Answer, clip: Clip | None) -> dict[str, float]:
    """Return the values of an answer by name; see ``scoring.score``.

    Args:
        sample: The sample.
        answer: The model's answer, in time tokens; an empty one if there is none.
        clip: The frames that the model saw; None if there were none.
    """
    truth = sample.truth
    if isinstance(truth, RegionTruth):
        return score(answer, Answer(Task.REC, boxes=((None, truth.box),)))
    frames = clip.frames if clip else (0,)
    if isinstance(truth, MomentTruth):
        expected = Answer(sample.query.task, span=(0, 0))
        return {**score(answer, expected), "tIoU": _moment_iou(truth, answer, clip)}
    return _video_scores(sample, truth, answer, frames)


def _moment_iou(truth: MomentTruth, answer: Answer, clip: Clip | None) -> float:
    span = answered_span(answer, clip.frames) if clip else None
    if span is None or clip is None:
        return 0.0
    unit = clip.duration if truth.normalized else NANOSECONDS
    start, end = ((clip.stamp(frame) - clip.start) / unit for frame in (span[0], span[1] - 1))
    return metrics.span_iou((start, end), (truth.start, truth.end))


def _video_scores(
    sample: BenchmarkSample, truth: VideoTruth, answer: Answer, frames: tuple[int, ...]
) -> dict[str, float]:
    task = sample.query.task
    expected = Answer(
        task, span=(truth.span[0], truth.span[1] - 1), boxes=tuple(truth.boxes.items())
    )
    span, boxes = answered_span(answer, frames), answered_boxes(answer, frames)
    if span is None and boxes:
        span = (min(boxes), max(boxes) + 1)
    in_frames = Answer(
        task,
        span=None if span is None else (span[0], span[1] - 1),
        boxes=() if span is None else tuple(dense_tube(boxes, span).items()),
        caption=answer.caption,
        no_match=answer.no_match,
        problems=answer.problems,
    )
    values = score(in_frames, expected)
    return {name: value for name, value in values.items() if name not in ATTRIBUTES}
