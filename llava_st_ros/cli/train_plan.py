"""``llava-st train plan``: what a training YAML costs on a machine, estimated before it starts."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from llava_st_ros.cli.run_arguments import check_counts

HELP = "estimate the time of a training YAML on a machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/training/tiny.yaml"),
        help="training YAML (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="default: %(default)s"
    )
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="default: those of this one"
    )
    parser.add_argument(
        "--grow", type=int, default=1, metavar="K", help="as of train run (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="the time that there is")


def run(args: argparse.Namespace) -> int:
    from rich.table import Table

    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.training.loop.time_budget import TimeBudget
    from llava_st_ros.training.tiny import plan
    from llava_st_ros.training.tiny.pipeline import learn_tokenizer, model_config, read_stage
    from llava_st_ros.training.tiny.settings import read_settings

    check_counts(args, "cores", "grow")
    budget = TimeBudget(args.minutes)
    settings = read_settings(args.config)
    stages = {name: read_stage(name, values) for name, values in settings["stages"].items()}
    config = model_config(settings["model"], learn_tokenizer(settings["model"]))
    speed = plan.machine(args.device, args.cores)
    plans = plan.plan_stages(stages, config, speed, args.grow)
    once = {
        "rendering": plan.rendering_minutes(settings["data"], config, speed),
        "vision features": plan.features_minutes(settings["data"], config, speed),
    }
    total = sum(once.values()) + sum(stage.minutes for stage in plans)

    table = Table(title=f"{args.config} on {args.device}, {args.cores} cores (estimated)")
    table.add_column("stage")
    for name in ("steps", "samples", "GFLOP a step", "minutes"):
        table.add_column(name, justify="right")
    for name, minutes in once.items():
        table.add_row(name, "", "", "", f"{minutes:.1f}")
    for stage in plans:
        table.add_row(
            stage.name,
            f"{stage.steps:,}",
            f"{stage.samples:,}",
            f"{stage.flops / 1e9:.0f}",
            f"{stage.minutes:.1f}",
        )
    table.add_row("total", "", "", "", f"{total:.1f}")
    print_tables(table)
    if total > budget.minutes:
        print(
            f"The estimate exceeds {budget.minutes:g} minutes: the run may have to be carried "
            "on, or grown (--grow)."
        )
    return 0
