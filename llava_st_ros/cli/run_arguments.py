"""The arguments of how a command runs and what it writes; shared by commands."""

from __future__ import annotations

import argparse
from os import sched_getaffinity
from pathlib import Path

from llava_st_ros.errors import ConfigError


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add --workers."""
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, each with its own model; on a CPU at most one per core (default 1)",
    )


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Add --threads."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of each process's model (default: the cores divided by --workers)",
    )


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """Check that arguments, where they are given, are at least 1. Raises ConfigError."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; expected at least 1")


def threads_of_process(threads: int | None, workers: int) -> int:
    """Return the CPU threads of each process, as in ``load_backend``.

    Args:
        threads: The value of --threads; None if it is not given.
        workers: Number of processes that share the cores.

    Raises:
        ConfigError: ``threads`` is less than 1.
    """
    if threads is None:
        return 0 if workers == 1 else max(1, len(sched_getaffinity(0)) // workers)
    if threads < 1:
        raise ConfigError(f"--threads is {threads}; expected at least 1")
    return threads


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --out and --json."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write the results and the report here"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
