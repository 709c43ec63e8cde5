"""Print how long a run's report takes to write and to open, and its size.

python -m benchmarks.report_page [--cases 2000] [--frames 600] [--rounds 5] [--out FILE.json]

The run has a case for each of several queries on recorded images of 640 x 480 noise, of which JPEG
makes the largest files that it can. Opening is measured in headless Chromium (CHROMIUM names it),
from the navigation to the end of the load event and to the first paint; the cache is empty each
time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.frame_readers import RecordedFrames
from llava_st_ros.evaluation.metric_kinds import MeanMetric, QuantileMetric, above
from llava_st_ros.evaluation.report_page.report_files import write_report
from llava_st_ros.evaluation.results import Case, RunResults, Timeline, rows_of
from llava_st_ros.media.overlay import VideoWriter
from llava_st_ros.records import NANOSECONDS, Box

METRICS = (
    MeanMetric("m_vIoU", "viou"),
    MeanMetric("vIoU@0.3", "viou", transform=above(0.3)),
    QuantileMetric("detection delay p50", "detection_delay", unit="s", lower_is_better=True),
)
FRAME_RATE = 10.0


def make_run(folder: Path, cases: int, frames: int) -> RunResults:
    """Record a video and make a run on it."""
    random = np.random.default_rng(0)
    video = folder / "noise.mp4"
    with VideoWriter(video, FRAME_RATE) as writer:
        for _ in range(frames):
            writer.write(random.integers(0, 256, (480, 640, 3), np.uint8))
    step = round(NANOSECONDS / FRAME_RATE)
    made = [_case(number, str(video), random, frames, step) for number in range(cases)]
    latency = {stage: tuple(random.exponential(0.3, 5000)) for stage in ("encode", "tick")}
    rows = rows_of("STVG", METRICS, made)
    return RunResults({"model": "noise"}, tuple(made), tuple(rows), latency=latency)


def _case(number: int, source: str, random: np.random.Generator, frames: int, step: int) -> Case:
    timelines = []
    for _ in range(2):
        start = int(random.integers(0, frames - 50))
        boxes = {}
        for index in range(start, start + 50):
            x, y = random.random(2) * 0.7
            boxes[index * step] = Box(x, y, x + 0.2, y + 0.25)
        timelines.append(Timeline(((start * step, (start + 49) * step),), boxes))
    return Case(
        f"case-{number}",
        source,
        "STVG",
        f"query {number}: the red box is pushed behind the green ball",
        {"viou": float(random.random())},
        {},
        {"detection_delay": tuple(random.exponential(1.0, 3))},
        expected=timelines[0],
        predicted=timelines[1],
    )


def open_seconds(report: Path, rounds: int) -> dict[str, float]:
    """Return the median seconds until the report is painted first, and loaded."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    loads, paints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        for _ in range(rounds):
            context = browser.new_context()
            page = context.new_page()
            page.goto(report.as_uri())
            entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
            page.wait_for_function(f"{entry} > 0")
            loads.append(page.evaluate(entry) / 1000)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            page.wait_for_function(f"{paint} > 0")
            paints.append(page.evaluate(paint) / 1000)
            context.close()
        browser.close()
    return {"paint": statistics.median(paints), "load": statistics.median(loads)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = make_run(Path(name), args.cases, args.frames)
        start = time.perf_counter()
        report = write_report(run, Path(name), RecordedFrames())
        written = time.perf_counter() - start
        figures = {
            "cases": args.cases,
            "write_seconds": round(written, 2),
            "megabytes": round(report.stat().st_size / 1e6, 2),
            **{f"{k}_seconds": round(v, 3) for k, v in open_seconds(report, args.rounds).items()},
        }
    print(json.dumps(figures, indent=1))
    if args.out:
        write_text(args.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
