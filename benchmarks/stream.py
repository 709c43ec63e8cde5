"""Print the scores of standing queries on simulated streams by ``no_match_threshold``.

scripts/with_ros python -m benchmarks.stream [--split validation] [--videos 12]
    [--thresholds 0.5 0.35 0.2 0.1] [--model DIR] [--threads 2] [--out FILE.json]

Each video of the split is recorded as a bag (this needs the renderer) and evaluated once per
threshold as by ``llava-st eval bag``, with a standing query for each of its events.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from tqdm import tqdm

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.evaluation.results import Case, MetricRow, rows_of
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS
from llava_st_ros.simulation.bag_writer import write_bag
from llava_st_ros.simulation.simulator import simulate_video, split_seed


def figures(rows: Sequence[MetricRow]) -> dict[str, float | None]:
    """Return the figures as plain values; None for one that is undefined."""
    return {row.metric: None if math.isnan(row.value) else row.value for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="validation")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.35, 0.2, 0.1])
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the scores as JSON")
    options = parser.parse_args()

    folder = options.model or default_model()
    backend, tokenizer = load_backend(folder, threads=options.threads)
    configs = {
        value: GrounderConfig(StreamConfig(history=HISTORY), no_match_threshold=value)
        for value in options.thresholds
    }
    cases: dict[float, list[Case]] = {value: [] for value in options.thresholds}
    with tempfile.TemporaryDirectory() as bags:
        for index in tqdm(range(options.videos), unit="video"):
            bag = Path(bags) / str(index)
            video = simulate_video(split_seed(options.split, index))
            write_bag(video, bag, queries=video.events)
            for value, config in configs.items():
                job = BagJob(bag.name, bag, annotation_path(bag), config=config)
                cases[value] += evaluate_bag(job, backend, tokenizer).cases
    rows = {value: rows_of("stream", STREAM_METRICS, found) for value, found in cases.items()}
    report = {
        "model": folder.name,
        "split": options.split,
        "videos": options.videos,
        "queries": len(cases[options.thresholds[0]]),
        "no_match_thresholds": {str(value): figures(of_value) for value, of_value in rows.items()},
    }
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    table = Table(
        title=f"{report['queries']} queries in {options.videos} videos of {options.split}"
    )
    for column in ("no_match_threshold", *(f"{value:g}" for value in options.thresholds)):
        table.add_column(column)
    for of_metric in zip(*rows.values()):
        name, unit = of_metric[0].metric, of_metric[0].unit
        table.add_row(f"{name} ({unit})" if unit else name, *(f"{r.value:.3f}" for r in of_metric))
    print_tables(table)


if __name__ == "__main__":
    main()
