"""Print how much faster several processes evaluate bags than one, and whether results agree.

python -m benchmarks.eval_workers [--bag demo/bag] [--bags 4] [--workers 2] [--rounds 1]
    [--period 0.1] [--model DIR] [--out FILE.json]

The bag is copied, so that each job reads files of its own. The time is that of the complete
command, start and report included; a short period makes the short bag as much work as minutes of
footage. One process is measured with one thread for its model, as each of several has, and with
all cores. Cores in use, the CPU time divided by the time, show the ceiling.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.results import read_results


@dataclass(frozen=True)
class Measurement:
    """Seconds of a command, and of the CPU for it."""

    seconds: float
    cpu_seconds: float


def evaluate(
    bags: list[Path], workers: int, threads: int, period: float, model: str, out: Path
) -> Measurement:
    """Run the command."""
    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "bag", *map(str, bags)]
    command += ["--workers", str(workers), "--threads", str(threads), "--out", str(out)]
    command += ["--period", str(period), *(("--model", model) if model else ())]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Measurement(seconds, cpu)


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
    cores = len(os.sched_getaffinity(0))
    runs = ((1, 1), (1, cores), (args.workers, 1))  # workers, and threads of each
    measured: dict[tuple[int, int], list[Measurement]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bags = [folder / f"bag{number}" for number in range(args.bags)]
        for bag in bags:
            shutil.copytree(args.bag, bag)
        for _ in range(args.rounds):
            for (workers, threads), taken in measured.items():
                out = folder / f"{workers}-{threads}"
                taken.append(evaluate(bags, workers, threads, args.period, args.model, out))
        first, *others = (read_results(folder / f"{w}-{t}") for w, t in runs)
    print(f"{args.bags} copies of {args.bag}, {first.about['frames']} frames, {cores} cores")
    last = median(one.seconds for one in measured[runs[-1]])
    for (workers, threads), taken in measured.items():
        seconds = median(one.seconds for one in taken)
        used = median(one.cpu_seconds / one.seconds for one in taken)
        print(
            f"--workers {workers} --threads {threads}: {seconds:.1f} s, {used:.2f} cores in use; "
            f"{args.workers} workers are {seconds / last:.2f} times as fast"
        )
    equal = all(run.cases == first.cases and run.rows == first.rows for run in others)
    print(f"equal results: {equal}")
    if args.out:
        values = {
            f"{w} workers, {t} threads": [asdict(one) for one in taken]
            for (w, t), taken in measured.items()
        }
        write_text(args.out, json.dumps({"runs": values, "equal": equal}, indent=1) + "\n")


if __name__ == "__main__":
    main()
