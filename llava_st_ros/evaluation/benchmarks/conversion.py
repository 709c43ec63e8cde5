"""Queries and answers as the scoring conventions read them: in the frames of the video."""

from __future__ import annotations

from llava_st_ros.evaluation.benchmarks.media import Clip
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkQuery,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Prediction
from llava_st_ros.evaluation.scoring import is_parsed
from llava_st_ros.records import NANOSECONDS, Answer, Box


def benchmark_sample(query: BenchmarkQuery, clip: Clip | None) -> BenchmarkSample:
    """Return a query's ground truth for the conventions.

    Args:
        query: The query.
        clip: The frames that the model saw; None if the media could not be read.
    """
    truth, task = query.truth, query.query.task
    if isinstance(truth, RegionTruth):
        size = (truth.width, truth.height)
        return BenchmarkSample(query.id, query.dataset, task, 1, 0.0, *size, boxes={0: truth.box})
    if isinstance(truth, MomentTruth):
        # Without the video its duration is unknown; there is no answer either.
        duration = clip.duration / NANOSECONDS if clip else truth.end
        unit = 1.0 if truth.normalized else max(duration, 1e-9)
        frames, fps = (len(clip.stamps), clip.fps) if clip else (1, 0.0)
        return BenchmarkSample(
            query.id,
            query.dataset,
            task,
            frames,
            fps,
            1,
            1,
            fractions=(truth.start / unit, truth.end / unit),
        )
    return _video_sample(query, truth, clip)


def _video_sample(query: BenchmarkQuery, truth: VideoTruth, clip: Clip | None) -> BenchmarkSample:
    first, end = truth.span
    last_annotated = max(end - 1, *truth.boxes, *(truth.crop or ()))
    return BenchmarkSample(
        query.id,
        query.dataset,
        query.query.task,
        # Some boxes are after the announced end of the video.
        max(truth.frames or (len(clip.stamps) if clip else 0), last_annotated + 1),
        truth.fps or (clip.fps if clip else 0.0),
        truth.width,
        truth.height,
        span=(first, end - 1),
        boxes=truth.boxes,
        segment=truth.crop,
    )


def prediction(query: BenchmarkQuery, answer: Answer, clip: Clip) -> Prediction:
    """Return an answer for the conventions.

    The model answers in time tokens, which are frames of its window. Of several boxes of a frame,
    in a video shorter than the window, the last one counts. Tokens past the window are clamped to
    its end in spans, and their boxes are left out.
    """
    parsed = is_parsed(answer, query.query.task)
    if isinstance(query.truth, RegionTruth):
        boxes = {0: answer.boxes[0][1]} if answer.boxes else {}
        return Prediction(boxes=boxes, shown=(0,), parsed=parsed)
    frames, last = clip.frames, len(clip.frames) - 1
    tube: dict[int, Box] = {
        frames[token]: box
        for token, box in answer.boxes
        if token is not None and 0 <= token <= last
    }
    span = fractions = None
    if answer.span is not None:
        tokens = sorted(min(max(token, 0), last) for token in answer.span)
        span = (frames[tokens[0]], frames[tokens[1]])
        fractions = (tokens[0] / max(1, last), tokens[1] / max(1, last))
    return Prediction(span, tube, frames, fractions, parsed, answer.caption or "")
