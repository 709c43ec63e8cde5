"""``llava-st ground``: ground text queries in recorded footage; tracks, events and an overlay."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.query_arguments import add_query_arguments, read_queries
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError, DataError

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
    add_query_arguments(parser)
    parser.add_argument(
        "--window",
        type=float,
        default=6.0,
        metavar="S",
        help="seconds of footage in the window (default 6)",
    )
    parser.add_argument(
        "--history",
        type=float,
        default=HISTORY,
        metavar="P",
        help="fraction of the window to be seen before a video query is first evaluated "
        f"(default {HISTORY})",
    )
    parser.add_argument(
        "--no-match-threshold",
        type=float,
        default=GrounderConfig.no_match_threshold,
        metavar="P",
        help='answer "no match" if its probability is at or above this; 1: never '
        f"(default {GrounderConfig.no_match_threshold})",
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
    from llava_st_ros.evaluation.replay import replay
    from llava_st_ros.evaluation.replay_report import replay_json, tables
    from llava_st_ros.grounder import Grounder

    source = _source(args)
    queries, notes = read_queries(args, on_image=bool(args.image))
    config = GrounderConfig(
        stream=StreamConfig(window_seconds=args.window, history=args.history),
        no_match_threshold=args.no_match_threshold,
        max_queries=max(1, len(queries)),
        min_confidence=args.min_confidence,
    )
    for note in notes:
        print(note, file=sys.stderr)
    _prepare_outputs(args)
    folder = args.model or default_model(args.backend, args.device)
    backend, tokenizer = load_backend(folder, name=args.backend, device=args.device)
    grounder = Grounder(backend, tokenizer, config)
    with _bar(source.length, "grounding") as bar:
        result = replay(grounder, source, queries, on_frame=bar.update)
    if source.dropped:
        print(f"{source.dropped} frames dropped; last error: {source.problem}", file=sys.stderr)
    for note in (*source.notes, *result.notes):
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
    from llava_st_ros.evaluation.replay_report import answers_json
    from llava_st_ros.media.pictures import frame_rate, write_pictures

    if not (args.out or args.overlay):
        return
    sheet = None
    if args.out:
        sheet = args.out / "contact_sheet.png"
        result.recording.write(args.out)
        lines = "".join(json.dumps(answer) + "\n" for answer in answers_json(result))
        (args.out / "answers.jsonl").write_text(lines, encoding="utf-8")
    with _bar(len(result.stamps), "drawing") as bar:
        write_pictures(
            source,
            result.recording.annotations(result.stamps, result.frame_streams),
            fps=frame_rate(result.stamps),
            video=args.overlay,
            sheet=sheet,
            on_frame=bar.update,
        )


def _bar(total: int | None, description: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit="frame", file=sys.stderr, disable=None)
