"""The arguments of how an evaluation is run and what it writes; shared by its commands."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add --workers."""
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, each with its own model; on a CPU at most one per core (default 1)",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --out and --json."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write the results and the report here"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
