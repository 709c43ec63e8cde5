"""Random samples of a benchmark with random predictions, the same in every run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Dataset, Prediction
from llava_st_ros.records import Box, Task

DATASETS = (Dataset.HC_STVG, Dataset.VIDSTG, Dataset.ST_ALIGN)


def random_tubes(
    count: int, dataset: Dataset | None = None, seed: int = 20
) -> Iterator[tuple[BenchmarkSample, Prediction]]:
    """Yield samples of STVG with predictions that hit them more or less.

    Among them are spans of one frame, videos with fewer than 5 frames per second, more than 200
    frames at 5 per second, frames without a box in truth and prediction, boxes before and after
    the spans, and answers without a span or boxes.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield _pair(index, dataset or DATASETS[index % len(DATASETS)], rng)


def _box(center: np.ndarray, rng: np.random.Generator) -> Box:
    x, y = np.clip(center + rng.normal(0, 0.03, 2), 0.05, 0.95)
    w, h = rng.uniform(0.05, 0.4, 2)
    values = (max(0.0, x - w), max(0.0, y - h), min(1.0, x + w), min(1.0, y + h))
    return Box(*(float(value) for value in values))


def _pair(
    index: int, dataset: Dataset, rng: np.random.Generator
) -> tuple[BenchmarkSample, Prediction]:
    frames = int(rng.choice([40, 97, 300, 600, 1500]))
    fps = float(rng.choice([3.0, 12.5, 29.97])) if dataset is not Dataset.HC_STVG else frames / 20
    segment = None
    first, last = 0, frames - 1
    if dataset is not Dataset.HC_STVG and rng.random() < 0.5:
        first, last = int(rng.integers(0, frames // 4)), int(rng.integers(frames // 2, frames))
        segment = (first, last)
    start = int(rng.integers(first, last + 1))
    end = min(last, start + int(rng.choice([0, 5, (last - first) // 2])))
    center = rng.uniform(0.2, 0.8, 2)
    truth = {t: _box(center, rng) for t in range(start, end + 1)}
    if rng.random() < 0.3:
        truth = {t: box for t, box in truth.items() if t % 7}
    sample = BenchmarkSample(
        f"v{index}", dataset, Task.STVG, frames, fps, 640, 352, (start, end), truth, segment
    )
    slots = 20
    shown = [first + round(k * (last - first) / (slots - 1)) for k in range(slots)]
    tokens = np.sort(rng.integers(0, slots, 2))
    if rng.random() < 0.6:  # near the truth
        near = np.searchsorted(shown, [start, end])
        tokens = np.sort(np.clip(near + rng.integers(-1, 2, 2), 0, slots - 1))
    a, b = (int(token) for token in tokens)
    boxes = {
        shown[k]: _box(center, rng)
        for k in range(max(0, a - 1), min(slots, b + 2))
        if a <= k <= b or rng.random() < 0.2
        if rng.random() < 0.95
    }
    span: tuple[int, int] | None = (shown[a], shown[b])
    fractions: tuple[float, float] | None = (a / (slots - 1), b / (slots - 1))
    if index % 11 == 10:
        span = fractions = None
    if index % 13 == 12:
        boxes = {}
    return sample, Prediction(span, boxes, tuple(shown), fractions, span is not None)
