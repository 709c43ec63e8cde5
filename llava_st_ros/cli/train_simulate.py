"""``llava-st train simulate``: render simulated clips.

With ``--out`` it writes files in ST-Align's format, for ``train finetune``. Otherwise it writes the
shards of raw frames (clips, and videos in the subfolder ``videos``) that a training YAML asks for,
for ``train run``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llava_st_ros.cli.run_arguments import check_counts
from llava_st_ros.errors import ConfigError

SHARD_VIDEOS = 10
HELP = "render the clips of a training YAML, or (--out) a data set in ST-Align's format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/training/tiny.yaml"),
        help="training YAML (default: %(default)s)",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/train"), help="folder to write the clips to"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="rendering processes (default: one per core)",
    )
    files = parser.add_argument_group("files in ST-Align's format")
    files.add_argument(
        "--out", type=Path, help="folder to write; --config and --data are then ignored"
    )
    files.add_argument("--n", type=int, default=100, help="number of clips")
    files.add_argument("--split", default="train", help="a split of the simulator")
    files.add_argument(
        "--first", type=int, default=0, help="index of the split's first clip to render"
    )
    files.add_argument(
        "--seed", type=int, default=0, help="seeds the choice of questions and wordings"
    )
    files.add_argument("--frames", type=int, default=20, help="frames per clip")
    files.add_argument("--size", type=int, default=144, help="side of a frame in pixels")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders

    check_counts(args, "workers", "n", "frames", "size")
    for name in ("first", "seed"):
        if getattr(args, name) < 0:
            raise ConfigError(f"--{name} is {getattr(args, name)}; expected at least 0")
    check_folders(args.data if args.out is None else args.out)
    return _write_shards(args) if args.out is None else _write_files(args)


def _write_files(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from llava_st_ros.training.st_align.simulated import SimulatedData, write_simulated

    data = SimulatedData(args.n, args.split, args.first, args.seed, args.frames, args.size)
    for _ in tqdm(write_simulated(args.out, data, args.workers), total=args.n, unit=" clips"):
        pass
    return 0


def _write_shards(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from llava_st_ros.simulation.clip_store import SHARD_CLIPS, render_shards
    from llava_st_ros.simulation.simulator import simulate_clip
    from llava_st_ros.simulation.streams import simulate_training_video
    from llava_st_ros.training.tiny.settings import VIDEOS_FOLDER, read_settings

    settings = read_settings(args.config)
    data, model = settings["data"], settings["model"]
    kinds = (
        ("clips", data["clips"], model["num_frames"], SHARD_CLIPS, args.data, simulate_clip),
        (
            "videos",
            data["videos"],
            data["video_frames"],
            SHARD_VIDEOS,
            args.data / VIDEOS_FOLDER,
            simulate_training_video,
        ),
    )
    for name, count, frames, per_shard, folder, simulate in kinds:
        if not count:
            continue
        shards = render_shards(
            folder,
            data["split"],
            count,
            num_frames=frames,
            size=model["image_size"],
            workers=args.workers,
            simulate=simulate,
            shard_clips=per_shard,
        )
        for _ in tqdm(shards, total=-(-count // per_shard), unit=f" x {per_shard} {name}"):
            pass
    return 0
