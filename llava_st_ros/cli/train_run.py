"""``llava-st train run``: train a tiny model on rendered clips.

With several processes: ``accelerate launch ... -m llava_st_ros.cli train run ...``.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from llava_st_ros.cli.run_arguments import check_counts
from llava_st_ros.errors import ConfigError

HELP = "train on rendered clips; an interrupted run resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/training/tiny.yaml"),
        help="training YAML (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/train"),
        help="folder of the clips (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("data/run"),
        help="work folder: the stages' weights and state, vision features, the log "
        "(default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="auto: a GPU if there is one (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        metavar="N",
        help="stop after N minutes with the state saved, exit code 75; run again to resume",
    )
    parser.add_argument(
        "--grow",
        type=int,
        default=1,
        metavar="K",
        help="K batches of the recipe in each step, for a GPU: as many samples in K times fewer "
        "steps, rates and weight decay times the root of K (default: %(default)s)",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="CHECKPOINT",
        help="start from this checkpoint's weights instead of from scratch",
    )
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads per process")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that make batches, per training process; 0: a thread (default: 0 on a "
        "CPU, otherwise one for each core but one)",
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.training.loop.time_budget import TimeBudget
    from llava_st_ros.training.tiny.pipeline import train

    budget = TimeBudget(args.minutes)
    check_counts(args, "grow", "threads")
    if args.workers is not None and args.workers < 0:
        raise ConfigError(f"--workers is {args.workers}; expected at least 0")
    check_folders(args.out, args.work)
    torch.set_num_threads(args.threads)
    train(
        args.config,
        args.data,
        args.work,
        args.out,
        args.workers,
        device=args.device,
        budget=budget,
        grow=args.grow,
        initial=args.init,
    )
    print(f"wrote {args.out}")
    return 0
