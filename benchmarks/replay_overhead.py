"""Print which part of a replay's time is not the model's.

scripts/with_ros python -m benchmarks.replay_overhead [--bag DIR] [--model DIR] [--threads 2]
    [--runs 3] [--latency L] [--max-share 0.15]

The bag is evaluated as by ``llava-st eval bag``, without the report. The overhead is everything but
the calls of the backend: reading and decoding images, buffering, prompts, grammar, parsing,
association, frame hashes, and scores. The exit code is 1 if it is above ``--max-share``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from rich.table import Table

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.evaluation.stage_times import MODEL_STAGES, READ, TICK

BAG = Path(__file__).resolve().parents[1] / "demo" / "bag"


def measure(job: BagJob, model: Path, threads: int, runs: int) -> list[dict[str, float]]:
    """Return the seconds of each part, for each run."""
    backend, tokenizer = load_backend(model, threads=threads)
    evaluate_bag(job, backend, tokenizer)  # first calls are slower
    measured = []
    for _ in range(runs):
        start = time.perf_counter()
        latency = evaluate_bag(job, backend, tokenizer).latency
        total = time.perf_counter() - start
        parts = {stage: sum(latency.get(stage, ())) for stage in (*MODEL_STAGES, READ)}
        network = sum(parts[stage] for stage in MODEL_STAGES)
        parts["rest of the ticks"] = sum(latency[TICK]) - network
        parts["buffers, scores"] = total - sum(latency[TICK]) - parts[READ]
        measured.append({**parts, "total": total, "overhead": total - network})
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, default=BAG)
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency", default="", help="as of llava-st eval bag")
    parser.add_argument("--max-share", type=float, default=0.15)
    options = parser.parse_args()

    job = BagJob(
        options.bag.name,
        options.bag,
        annotation_path(options.bag),
        config=GrounderConfig(StreamConfig(history=HISTORY)),
        latency=options.latency,
    )
    model = options.model or default_model()
    runs = measure(job, model, options.threads, options.runs)
    total = median(run["total"] for run in runs)
    table = Table(title=f"{options.bag.name}, {model.name}, median of {len(runs)} runs")
    for column in ("part", "seconds", "share"):
        table.add_column(column)
    for part in runs[0]:
        seconds = median(run[part] for run in runs)
        table.add_row(part, f"{seconds:.3f}", f"{seconds / total:.1%}")
    print_tables(table)
    share = median(run["overhead"] / run["total"] for run in runs)
    print(f"overhead {share:.1%}, at most {options.max_share:.0%} is expected")
    return int(share > options.max_share)


if __name__ == "__main__":
    sys.exit(main())
