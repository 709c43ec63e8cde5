"""``llava-st train pack``: a run in pieces that can be carried to another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_st_ros.cli.run_arguments import check_counts

HELP = "write what resuming a run requires, in pieces, to carry it to another machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/training/tiny.yaml"),
        help="training YAML of the run (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("data/run"),
        help="work folder of the run (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it is replaced")
    parser.add_argument(
        "--mib", type=int, default=15, help="largest size of a piece in MiB (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.training.tiny.run_archive import MIB, pack
    from llava_st_ros.training.tiny.settings import read_settings

    check_counts(args, "mib")
    stages = list(read_settings(args.config)["stages"])
    pieces = pack(args.work, stages, args.out, args.mib * MIB)
    size = sum(piece.stat().st_size for piece in pieces) / MIB
    print(f"wrote {len(pieces)} files, {size:.1f} MiB, to {args.out}")
    return 0
