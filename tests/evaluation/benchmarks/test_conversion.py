"""Queries and answers in the frames of the video, as conventions read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.evaluation.benchmarks.conversion import benchmark_sample, prediction
from llava_st_ros.evaluation.benchmarks.media import Clip
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkQuery,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.records import Answer, Box, Query, Task

A, B = Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.5, 1.0, 1.0)
MS = 1_000_000
# Four slots on frames 10, 14, 18 and 22 of a video at 20 frames per second, which begins at 7 s.
CLIP = Clip(
    Path("a.mp4"),
    (np.zeros((1, 1, 3), np.uint8),) * 4,
    (10, 14, 18, 22),
    tuple(7000 * MS + i * 50 * MS for i in range(23)),
)


def query(task: Task, truth: VideoTruth | MomentTruth | RegionTruth) -> BenchmarkQuery:
    return BenchmarkQuery(
        "a", Dataset.OTHER, "file: 0", ("a.mp4",), Query("", "a box", task), task.value, truth
    )


def test_a_video_answer_is_in_its_frames() -> None:
    asked = query(Task.STVG, VideoTruth((12, 19), {12: A, 18: B}, 640, 360, crop=(10, 22)))
    sample = benchmark_sample(asked, CLIP)
    assert (sample.span, sample.segment, sample.num_frames) == ((12, 18), (10, 22), 23)
    assert (sample.fps, sample.width, sample.boxes) == (pytest.approx(20), 640, {12: A, 18: B})
    answer = Answer(Task.STVG, span=(1, 2), boxes=((1, A), (2, B)))
    found = prediction(asked, answer, CLIP)
    assert (found.span, found.boxes, found.shown) == ((14, 18), {14: A, 18: B}, CLIP.frames)
    assert found.fractions == pytest.approx((1 / 3, 2 / 3)) and found.parsed


def test_tokens_past_the_window_are_clamped_in_spans_and_left_out_in_tubes() -> None:
    asked = query(Task.STVG, VideoTruth((12, 19), {12: A}, 640, 360))
    answer = Answer(Task.STVG, span=(3, 9), boxes=((3, A), (9, B)), problems=("past the window",))
    found = prediction(asked, answer, CLIP)
    assert (found.span, found.boxes, found.parsed) == ((22, 22), {22: A}, False)


def test_boxes_after_the_announced_end_of_the_video_are_kept() -> None:
    asked = query(Task.STVG, VideoTruth((38, 42), {38: A, 41: B}, 640, 360, frames=40, fps=2.0))
    sample = benchmark_sample(asked, None)
    assert (sample.num_frames, sample.fps, sample.span) == (42, 2.0, (38, 41))


def test_moments_are_fractions_of_the_duration() -> None:
    # 23 frames at 20 frames per second: 1.15 s.
    seconds = query(Task.TVG, MomentTruth(0.23, 0.46, normalized=False))
    assert benchmark_sample(seconds, CLIP).fractions == pytest.approx((0.2, 0.4))
    fractions = query(Task.TVG, MomentTruth(0.2, 0.4, normalized=True))
    assert benchmark_sample(fractions, CLIP).fractions == (0.2, 0.4)
    assert benchmark_sample(fractions, None).fractions == (0.2, 0.4)
    found = prediction(seconds, Answer(Task.TVG, span=(0, 3)), CLIP)
    assert (found.fractions, found.span) == ((0.0, 1.0), (10, 22))


def test_the_first_box_answers_a_query_about_an_image() -> None:
    asked = query(Task.REC, RegionTruth(A, 640, 360))
    sample = benchmark_sample(asked, CLIP)
    assert (sample.num_frames, sample.boxes, sample.width) == (1, {0: A}, 640)
    found = prediction(asked, Answer(Task.REC, boxes=((None, B), (None, A))), CLIP)
    assert found.boxes == {0: B}
    assert prediction(asked, Answer(Task.REC), CLIP).boxes == {}
