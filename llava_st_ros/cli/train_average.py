"""``llava-st train average``: average the weights of several checkpoints of one model."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the weighted average of several checkpoints of one model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="CHECKPOINT",
        help="two or more checkpoint folders with the same geometry and tokenizer",
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="weight of each checkpoint; their sum is 1; below 0 or above 1 extrapolates "
        "(default: equal)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write"
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.cli.tensor_bar import tensor_bar
    from llava_st_ros.model.tensor_files import list_names
    from llava_st_ros.training.averaging import average

    check_folders(args.out.parent)
    with tensor_bar("averaging") as on_tensor:
        left_out = average(args.checkpoints, args.weights, args.out, on_tensor=on_tensor)
    line = f"wrote {args.out}"
    if left_out.calibrations:
        folders = ", ".join(map(str, left_out.calibrations))
        line += f", without the calibration of {folders}; llava-st train calibrate fits a new one"
    if left_out.tensors:
        line += f"; left out {list_names(list(left_out.tensors))} that the network does not use"
    print(line)
    return 0
