"""``llava-st train curves``: plot a training log."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "plot the losses and learning rates of a run's stages as a PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", type=Path, default=Path("data/run/log.jsonl"), help="the run's log.jsonl"
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_files
    from llava_st_ros.training.curves import draw_curves

    check_files(args.out)
    draw_curves(args.log, args.out)
    print(f"wrote {args.out}")
    return 0
