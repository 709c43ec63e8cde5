"""How much scoring conventions differ: the same random tubes, scored by each.

Predictions near the ground truth and perfect ones, on videos as of HC-STVG (20 s, frames numbered
from 1 in its files) and VidSTG, of which the model sees 100 frames. No model is run.

    scripts/with_ros python -m benchmarks.conventions [--n 500]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from llava_st_ros.cli.convention_tables import convention_tables
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.evaluation.conventions.catalogue import CONVENTIONS
from llava_st_ros.evaluation.conventions.llava_st import sampled_frames
from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Dataset, Prediction
from llava_st_ros.evaluation.results import Case, rows_of
from llava_st_ros.records import Box, Task

WIDTH, HEIGHT = 640, 360
DATASETS = (Dataset.HC_STVG, Dataset.VIDSTG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500, help="tubes of each kind (default 500)")
    count = parser.parse_args().n
    conventions = [
        convention
        for convention in CONVENTIONS.values()
        if any(convention.applies_to(sample) for sample, _ in tubes(Dataset.HC_STVG, 1, 0.0))
    ]
    rows = []
    for noise, kind in ((0.0, "perfect"), (1.0, "near")):
        for dataset in DATASETS:
            task = f"{dataset.value}, {kind}"
            cases = [
                _case(sample, prediction, task)
                for sample, prediction in tubes(dataset, count, noise)
            ]
            for convention in conventions:
                rows += rows_of(task, convention.metrics, cases)
    print_tables(*convention_tables(rows, conventions, f"{count} random tubes of each kind"))


def tubes(
    dataset: Dataset, count: int, noise: float, seed: int = 0
) -> Iterator[tuple[BenchmarkSample, Prediction]]:
    """Yield moving boxes with predictions of an error of about ``noise`` x 1 s and 5 % of a side.

    With ``noise`` 0 the prediction is the ground truth at every frame.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        fps = float(rng.choice([24.0, 25.0, 30.0]))
        frames = round(20 * fps) if dataset is Dataset.HC_STVG else int(rng.uniform(5, 60) * fps)
        start = int(rng.integers(0, frames // 2))
        end = min(frames - 1, start + int(rng.uniform(1, 10) * fps))
        path = np.linspace(rng.uniform(0.2, 0.8, 2), rng.uniform(0.2, 0.8, 2), end - start + 1)
        half = rng.uniform(0.05, 0.2, 2)
        truth = {start + i: _box(center, half) for i, center in enumerate(path)}
        sample = BenchmarkSample(
            *(f"{dataset.value} {index}", dataset, Task.STVG, frames, fps, WIDTH, HEIGHT),
            span=(start, end),
            boxes=truth,
        )
        if not noise:
            shown = tuple(range(frames))
            yield sample, Prediction((start, end), truth, shown)
            continue
        shown = tuple(sampled_frames((0, frames - 1)))
        edges = np.array([start, end]) + rng.normal(0, noise * fps, 2)
        first, last = sorted(int(np.abs(np.array(shown) - edge).argmin()) for edge in edges)
        boxes = {}
        for frame in shown[first : last + 1]:
            center = path[min(max(frame - start, 0), len(path) - 1)]
            error = rng.normal(0, 0.05 * noise, 2) * half * 2
            boxes[frame] = _box(center + error, half)
        fractions = (first / (len(shown) - 1), last / (len(shown) - 1))
        yield sample, Prediction((shown[first], shown[last]), boxes, shown, fractions)


def _box(center: Sequence[float] | np.ndarray, half: np.ndarray) -> Box:
    (x, y), (w, h) = center, half
    return Box(float(x - w), float(y - h), float(x + w), float(y + h)).clipped()


def _case(sample: BenchmarkSample, prediction: Prediction, task: str) -> Case:
    values: dict[str, float] = {}
    for convention in CONVENTIONS.values():
        if convention.applies_to(sample):
            values |= convention.values(sample, prediction)
    return Case(sample.id, sample.id, task, "random tube", values)


if __name__ == "__main__":
    main()
