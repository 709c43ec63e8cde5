"""``llava-st train unpack``: a packed run into a work folder, where ``train run`` resumes it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "put a packed run into a work folder, where train run resumes it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder that train pack wrote")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("data/run"),
        help="work folder without a run (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.training.tiny.run_archive import unpack

    check_folders(args.work)
    unpack(args.folder, args.work)
    print(f"unpacked into {args.work}")
    return 0
