"""``llava-st train finetune``: fine-tune a checkpoint on data in ST-Align's format.

With several processes: ``accelerate launch ... -m llava_st_ros.cli train finetune ...``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_st_ros.errors import DataError

HELP = "fine-tune a LLaVA-ST checkpoint on data in ST-Align's format, with or without LoRA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML of the stage, as in config/training/7b"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the JSON files and their media"
    )
    parser.add_argument(
        "--work", type=Path, help="folder of the log, saved state and adapter (default: OUT.work)"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that read media, per training process; 0 uses a thread (default 0)",
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders, check_is_no_input
    from llava_st_ros.training.finetune.stage import finetune

    work = args.work or args.out.with_name(args.out.name + ".work")
    if not args.data.is_dir():
        raise DataError(f"no folder {args.data}; expected the folder of the JSON files")
    for path in (args.out, work):  # an interrupted run resumes from the same checkpoint
        check_is_no_input(path, args.checkpoint)
    check_folders(args.out, work)
    finetune(args.config, args.checkpoint, args.data, work, args.out, args.workers)
    print(f"wrote {args.out}")
    return 0
