"""Print how much faster several processes evaluate bags than one, and whether results agree.

python -m benchmarks.eval_workers [--bag demo/bag] [--bags 4] [--workers 2] [--rounds 1]
    [--period 0.1] [--model DIR] [--out FILE.json]

The bag is copied, so that each job reads files of its own. The time is that of the complete
command, start and report included; a short period makes the short bag as much work as minutes of
footage. One process uses all cores for its model, several one each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.results import read_results


def evaluate(
    bags: list[Path], workers: int, cores: int, period: float, model: str, out: Path
) -> float:
    """Return the seconds that the command takes on a number of cores."""
    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "bag", *map(str, bags)]
    command += ["--workers", str(workers), "--period", str(period), "--out", str(out)]
    if model:
        command += ["--model", model]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    start = time.monotonic()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, default=Path("demo/bag"))
    parser.add_argument("--bags", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--period", type=float, default=0.1, help="seconds between evaluations")
    parser.add_argument("--model", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # Workers and cores: one process on one core and on all, then several processes.
    runs = ((1, 1), (1, args.workers), (args.workers, args.workers))
    seconds: dict[tuple[int, int], list[float]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bags = [folder / f"bag{number}" for number in range(args.bags)]
        for bag in bags:
            shutil.copytree(args.bag, bag)
        for _ in range(args.rounds):
            for (workers, cores), taken in seconds.items():
                out = folder / f"{workers}-{cores}"
                taken.append(evaluate(bags, workers, cores, args.period, args.model, out))
        first, *others = (read_results(folder / f"{w}-{c}") for w, c in runs)
    print(f"{args.bags} copies of {args.bag}, {first.about['frames']} frames")
    last = median(seconds[runs[-1]])
    for (workers, cores), taken in seconds.items():
        print(
            f"--workers {workers} on {cores} cores: {median(taken):.1f} s; "
            f"{args.workers} workers are {median(taken) / last:.2f} times as fast"
        )
    equal = all(run.cases == first.cases and run.rows == first.rows for run in others)
    print(f"equal results: {equal}")
    if args.out:
        values = {f"{w} workers, {c} cores": taken for (w, c), taken in seconds.items()}
        write_text(args.out, json.dumps({"seconds": values, "equal": equal}, indent=1) + "\n")


if __name__ == "__main__":
    main()
