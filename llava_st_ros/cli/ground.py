"""``llava-st ground``: ground text queries in recorded footage; tracks, events and an overlay."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.records import UNNAMED, Box, Modality, Query, Task

if TYPE_CHECKING:
    from llava_st_ros.evaluation.replay import ReplayResult
    from llava_st_ros.media.sources import Source

HELP = "ground text queries in a video, image folder, image or bag"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    footage = parser.add_mutually_exclusive_group(required=True)
    footage.add_argument("--video", type=Path, help="a video file")
    footage.add_argument("--images", type=Path, metavar="DIR", help="a folder of images")
    footage.add_argument("--image", type=Path, help="one image")
    footage.add_argument("--bag", type=Path, help="a rosbag2 recording (sqlite3 or MCAP)")
    parser.add_argument("--topic", help="image topic of the bag (default: the only one)")
    parser.add_argument(
        "--fps", type=float, default=10.0, help="frame rate of --images (default 10)"
    )
    parser.add_argument(
        "--query", action="append", required=True, metavar="TEXT", help="repeatable"
    )
    parser.add_argument(
        "--task",
        type=str.upper,
        choices=[task.value for task in Task],
        help="task of the queries (default: REC for --image and for a noun phrase without a verb, "
        "otherwise STVG)",
    )
    parser.add_argument(
        "--span",
        type=float,
        nargs="+",
        metavar="T",
        help="input of SVG, TR and ELC: one or two fractions of the window",
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="input of ELC and REG: fractions of the image",
    )
    parser.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between evaluations of a query (default 1)",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=6.0,
        metavar="S",
        help="seconds of footage in the window (default 6)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="treat answers below this confidence as no match",
    )
    parser.add_argument(
        "--model", type=Path, help="checkpoint or engine directory (default: llava-st-tiny)"
    )
    parser.add_argument("--backend", default="", help="runtime (default: the model's own)")
    parser.add_argument(
        "--device", default="", help="device (default: cuda for TensorRT, otherwise cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write JSONL files and a contact sheet"
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="write an overlay video")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import load_backend
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.config import GrounderConfig, StreamConfig
    from llava_st_ros.evaluation.replay import replay
    from llava_st_ros.evaluation.replay_report import replay_json, tables
    from llava_st_ros.grounder import Grounder

    source = _source(args)
    queries = _queries(args)
    config = GrounderConfig(
        stream=StreamConfig(window_seconds=args.window), min_confidence=args.min_confidence
    )
    for query in queries:
        if query.note:
            print(f"query {query.id!r} ({query.text!r}): {query.note}", file=sys.stderr)
    _prepare_outputs(args)
    folder = args.model or default_model(args.backend, args.device)
    backend, tokenizer = load_backend(folder, name=args.backend, device=args.device)
    grounder = Grounder(backend, tokenizer, config)
    with _bar(source.length, "grounding") as bar:
        result = replay(grounder, source, queries, window_seconds=args.window, on_frame=bar.update)
    if source.dropped:
        print(f"{source.dropped} frames dropped; last error: {source.problem}", file=sys.stderr)
    for note in source.notes:
        print(note, file=sys.stderr)
    for query_id, failures in result.failures_by_query().items():
        print(
            f"query {query_id!r}: {len(failures)} evaluations failed; last: {failures[-1].error}",
            file=sys.stderr,
        )
    _write(args, source, result)
    if args.json:
        print(json.dumps(replay_json(folder, source, queries, result), indent=1))
    else:
        from rich.console import Console

        console = Console()
        for part in tables(result):
            console.print(part)
    return 0


def _source(args: argparse.Namespace) -> Source:
    from llava_st_ros.media.sources import (
        BagSource,
        ImageFolderSource,
        ImageSource,
        VideoSource,
    )

    if args.topic and not args.bag:
        raise ConfigError("--topic applies to --bag only")
    if args.video:
        return VideoSource(args.video)
    if args.images:
        return ImageFolderSource(args.images, args.fps)
    if args.image:
        return ImageSource(args.image)
    return BagSource(args.bag, args.topic)


def _queries(args: argparse.Namespace) -> list[Query]:
    task = Task(args.task) if args.task else Task.REC if args.image else UNNAMED
    if args.image and task.modality is not Modality.IMAGE:
        raise ConfigError(
            f"task {task.value} needs a video; an image supports REC, REG and DGC",
            "use --video, --images or --bag",
        )
    if args.span and len(args.span) > 2:
        raise ConfigError(f"--span has {len(args.span)} values; expected one or two")
    span = (args.span[0], args.span[-1]) if args.span else None
    box = Box(*args.box) if args.box else None
    return [
        Query(f"q{i}", text, task, period=args.period, span=span, box=box)
        for i, text in enumerate(args.query, start=1)
    ]


def _prepare_outputs(args: argparse.Namespace) -> None:
    """Create the output folders up front, so that an unwritable path fails immediately."""
    if args.overlay and args.overlay.suffix not in (".mp4", ".avi"):
        raise ConfigError(f"--overlay is {args.overlay}; expected a .mp4 or .avi file")
    for folder in (args.out, args.overlay and args.overlay.parent):
        if folder:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"folder {folder} cannot be created: {error.strerror}") from error


def _write(args: argparse.Namespace, source: Source, result: ReplayResult) -> None:
    from llava_st_ros.evaluation.replay_report import answer_json
    from llava_st_ros.media.pictures import write_pictures

    if not (args.out or args.overlay):
        return
    sheet = None
    if args.out:
        sheet = args.out / "contact_sheet.png"
        result.recording.write(args.out)
        lines = "".join(json.dumps(answer_json(g)) + "\n" for g in result.groundings)
        (args.out / "answers.jsonl").write_text(lines, encoding="utf-8")
    with _bar(len(result.stamps), "drawing") as bar:
        write_pictures(
            source,
            result.recording.annotations(result.stamps),
            video=args.overlay,
            sheet=sheet,
            on_frame=bar.update,
        )


def _bar(total: int | None, description: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit="frame", file=sys.stderr, disable=None)
