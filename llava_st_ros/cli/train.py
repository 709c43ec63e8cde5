"""``llava-st train``: render simulated clips, train a checkpoint on them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELP = "render simulated clips and train a checkpoint on them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    simulate = actions.add_parser("simulate", help="render the clips a training YAML asks for")
    run = actions.add_parser("run", help="train on rendered clips; goes on where it was stopped")
    for action in (simulate, run):
        action.add_argument(
            "--config", type=Path, default=Path("config/training/tiny.yaml"), help="training YAML"
        )
        action.add_argument(
            "--data", type=Path, default=Path("data/train"), help="folder of the clips"
        )
    simulate.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    run.add_argument(
        "--work", type=Path, default=Path("data/run"), help="folder of stages, features and the log"
    )
    run.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    run.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")


def run(args: argparse.Namespace) -> int:
    # Imported late: rendering needs no torch, training no renderer.
    if args.action == "simulate":
        from tqdm import tqdm

        from llava_st_ros.training.clip_store import SHARD_CLIPS, render_shards
        from llava_st_ros.training.settings import read_settings

        settings = read_settings(args.config)
        clips, model = settings["data"]["clips"], settings["model"]
        shards = render_shards(
            args.data,
            "train",
            clips,
            num_frames=model["num_frames"],
            size=model["image_size"],
            workers=args.workers,
        )
        total = -(-clips // SHARD_CLIPS)
        for _ in tqdm(shards, total=total, unit=f" x {SHARD_CLIPS} clips"):
            pass
        return 0
    import torch

    from llava_st_ros.training.pipeline import train

    torch.set_num_threads(args.threads)
    train(args.config, args.data, args.work, args.out)
    print(f"wrote {args.out}")
    return 0
