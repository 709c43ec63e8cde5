"""``llava-st train ablate``: ablations of LLaVA-ST's ideas on simulated clips."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

HELP = "train variants that each lack one idea, with equal budgets, and compare them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/training/ablation.yaml"),
        help="training YAML with an ablation section",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/train"), help="folder of the training clips"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("data/ablation"),
        help="work folder; an interrupted run resumes",
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="folder that caches the evaluation clips"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[],
        metavar="SEED",
        help="train only these of the YAML's seeds; other processes can train the rest",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: argparse.Namespace) -> int:
    import torch

    from llava_st_ros.cli.outputs import check_folders, print_tables
    from llava_st_ros.training.tiny.ablations import ablate, as_records

    check_folders(args.work, args.store)
    torch.set_num_threads(args.threads)
    # Only the comparison goes to stdout.
    with contextlib.redirect_stdout(sys.stderr):
        results = list(ablate(args.config, args.data, args.work, args.store, args.seeds))
    records = as_records(results)
    if args.json:
        print(json.dumps(records, indent=1))
        return 0
    print_tables(_table(records))
    return 0


def _table(records: list[dict[str, Any]]) -> Table:
    """One row per metric and one column per variant: the mean, then the value of each seed."""
    from rich.table import Table

    variants = list(dict.fromkeys(record["variant"] for record in records))
    table = Table(title="mean (of each seed)")
    for name in ("task", "metric"):
        table.add_column(name)
    for name in variants:
        table.add_column(name, justify="right")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        seeds = ", ".join(f"{value:.3f}" for value in record["seeds"].values())
        cell = f"{record['mean']:.3f} ({seeds})"
        rows.setdefault((record["task"], record["metric"]), {})[record["variant"]] = cell
    for (task, metric), cells in rows.items():
        table.add_row(task, metric, *(cells.get(name, "-") for name in variants))
    return table
