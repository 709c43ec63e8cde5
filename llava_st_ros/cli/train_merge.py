"""``llava-st train merge``: merge a checkpoint and its LoRA adapters into one checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "merge a checkpoint and the LoRA adapters trained on it into one checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, help="full checkpoint of stage 1 (safetensors)")
    parser.add_argument(
        "adapters",
        type=Path,
        nargs="+",
        help="folders of the adapters, in the order of training",
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.cli.tensor_bar import tensor_bar
    from llava_st_ros.training.adapters.merge import merge

    check_folders(args.out.parent)
    with tensor_bar("merging") as on_tensor:
        merge(args.base, args.adapters, args.out, on_tensor=on_tensor)
    print(f"wrote {args.out}")
    return 0
