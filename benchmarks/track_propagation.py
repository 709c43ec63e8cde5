"""Print what carrying tracks to every frame gives, against holding the last box, and its cost.

scripts/with_ros python -m benchmarks.track_propagation [--n 8] [--latency 1.0] [--store DIR]
    [--split validation] [--model DIR] [--threads 1] [--min-ratio 1.15]

Streams of the simulator are replayed at the pace of a robot on which each answer takes as long as
``--latency`` says (as of ``llava-st eval bag``), twice with the same answers. Scores are those of
the boxes that are known when a frame arrives (``live``). The exit code is 1 if the vIoU of followed
objects (REC) grows by less than ``--min-ratio``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, quantiles

import cv2
import numpy as np
from rich.table import Table

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.evaluation.remembered_answers import Key, RememberingRunner
from llava_st_ros.evaluation.results import Case
from llava_st_ros.evaluation.simulated_streams import StreamSplit, record_streams
from llava_st_ros.records import Box, BoxTube, Frame, Grounding, Track, TrackState
from llava_st_ros.streaming.frame_gate import TRACK_RATE
from llava_st_ros.tracking.propagation import CameraPropagation

VALUES = ("live_viou", "live_tiou", "live_hota", "final_viou")
COUNTS = ("live_correct", "live_id_switches")


def scores(cases: list[Case], task: str) -> dict[str, float]:
    """Return the mean of each value and the ratio of each count over the cases of a task."""
    found = [case for case in cases if case.task == task]
    values = {
        name: mean(case.values[name] for case in found if name in case.values) for name in VALUES
    }
    for name in COUNTS:
        pairs = [case.counts[name] for case in found if name in case.counts]
        values[name] = sum(a for a, _ in pairs) / max(1e-9, sum(b for _, b in pairs))
    return values


def cost(objects: int, size: tuple[int, int], frames: int = 60) -> list[float]:
    """Return the CPU milliseconds of each frame in which textured boxes move by 2 px."""
    cv2.setNumThreads(1)
    width, height = size
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (height // 8 + 1, (width + 2 * frames) // 8 + 1))
    wide = blocks.astype(np.uint8).repeat(8, 0).repeat(8, 1)
    camera = CameraPropagation(1.0)
    tracks = []
    for n in range(objects):
        x, y = (0.05 + 0.9 * n / objects), 0.3
        tube = BoxTube((0,), (Box(x, y, x + 0.15, y + 0.2),))
        tracks.append(
            Track("q", n, "", tube, TrackState.GROUNDED, 1.0, "camera", "", width, height)
        )
    times = []
    for n in range(frames):
        pixels = wide[:height, 2 * n : 2 * n + width]
        frame = Frame(np.ascontiguousarray(np.stack([pixels] * 3, axis=2)), n * 33_333_333)
        start = time.thread_time()
        camera.add(frame)
        times.append((time.thread_time() - start) * 1e3)
        if n == 0:
            camera.set_tracks(tracks)
            camera.catch_up()
    return times[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=8, help="streams")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--latency", default="1.0", help="as of llava-st eval bag")
    parser.add_argument("--store", type=Path, help="folder of recorded streams")
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--min-ratio", type=float, default=1.15)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary)
        bags = record_streams(StreamSplit(options.split), range(options.n), store)
        model = options.model or default_model()
        backend, tokenizer = load_backend(model, threads=options.threads)
        cases: dict[float, list[Case]] = defaultdict(list)
        for bag in bags:
            answers: dict[Key, Grounding] = {}
            for rate in (0.0, TRACK_RATE):
                job = BagJob(
                    bag.name,
                    bag,
                    annotation_path(bag),
                    config=GrounderConfig(StreamConfig(history=HISTORY)),
                    latency=options.latency,
                    track_rate=rate,
                )
                runner = RememberingRunner(backend, tokenizer, job.config, answers)
                cases[rate] += evaluate_bag(job, backend, tokenizer, runner=runner).cases
    table = Table(title=f"{options.n} streams of {options.split}, {options.latency} s an answer")
    for column in ("task", "score", "last box held", "carried", "ratio"):
        table.add_column(column)
    ratio = 0.0
    for task in ("REC", "STVG"):
        held, carried = (scores(cases[rate], task) for rate in (0.0, TRACK_RATE))
        for name in (*VALUES, *COUNTS):
            change = carried[name] / held[name] if held[name] else float("nan")
            table.add_row(task, name, f"{held[name]:.3f}", f"{carried[name]:.3f}", f"{change:.2f}")
            if (task, name) == ("REC", "live_viou"):
                ratio = change
    timing = Table(title="CPU time of one thread, from the decoded image")
    for column in ("image", "tracks", "ms p50", "ms p99"):
        timing.add_column(column)
    for size in ((640, 480), (1280, 720)):
        for objects in (0, 1, 4):
            found = quantiles(cost(objects, size), n=100)
            timing.add_row(
                f"{size[0]}x{size[1]}", str(objects), f"{found[49]:.1f}", f"{found[98]:.1f}"
            )
    print_tables(table, timing)
    print(f"vIoU of followed objects {ratio:.2f} times, at least {options.min_ratio:g} expected")
    return int(not ratio >= options.min_ratio)


if __name__ == "__main__":
    sys.exit(main())
