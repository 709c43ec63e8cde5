"""Print how much faster several processes evaluate bags than one, and whether results agree.

python -m benchmarks.eval_workers [--bag demo/bag] [--bags 4] [--workers 2] [--rounds 1]
    [--model DIR] [--out FILE.json]

The bag is copied, so that each job reads files of its own. The time is that of the complete
command, start and report included. One process uses all cores for its model, several one each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.results import read_results


def evaluate(bags: list[Path], workers: int, model: str, out: Path) -> float:
    """Return the seconds that the command takes."""
    command = [sys.executable, "-m", "llava_st_ros.cli", "eval", "bag", *map(str, bags)]
    command += ["--workers", str(workers), "--out", str(out)]
    if model:
        command += ["--model", model]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, default=Path("demo/bag"))
    parser.add_argument("--bags", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], args.workers: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bags = [folder / f"bag{number}" for number in range(args.bags)]
        for bag in bags:
            shutil.copytree(args.bag, bag)
        for _ in range(args.rounds):
            for workers, taken in seconds.items():
                taken.append(evaluate(bags, workers, args.model, folder / str(workers)))
        one, several = (read_results(folder / str(workers)) for workers in seconds)
    print(f"{args.bags} copies of {args.bag}, {one.about['frames']} frames")
    for workers, taken in seconds.items():
        print(f"--workers {workers}: {median(taken):.1f} s")
    speed_up = median(seconds[1]) / median(seconds[args.workers])
    print(f"speed-up: {speed_up:.2f}")
    print(f"equal results: {one.cases == several.cases and one.rows == several.rows}")
    if args.out:
        values = {"seconds": {str(w): taken for w, taken in seconds.items()}, "speed_up": speed_up}
        write_text(args.out, json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
