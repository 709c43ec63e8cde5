"""``llava-st ground``: ground text queries in recorded footage; tracks, events and an overlay."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.atomic_files import staged_files
from llava_st_ros.cli.grounding_arguments import add_grounding_arguments, grounder_config
from llava_st_ros.cli.outputs import (
    InterruptedRunError,
    check_files,
    check_folders,
    check_is_no_input,
    print_tables,
    sigterm_interrupts,
)
from llava_st_ros.cli.query_arguments import add_query_arguments, read_queries
from llava_st_ros.errors import ConfigError, LlavaStError, reason_of
from llava_st_ros.records import NANOSECONDS, Query

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
    parser.add_argument("--fps", type=float, help="frame rate of --images (default 10)")
    add_query_arguments(parser)
    add_grounding_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write JSONL files and a contact sheet"
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="write an overlay video")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import load_backend
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.evaluation.replay import ReplayResult, replay
    from llava_st_ros.grounder import Grounder

    source = _source(args)
    queries, notes = read_queries(args, on_image=bool(args.image))
    config = grounder_config(args, max_queries=max(1, len(queries)))
    _prepare_outputs(args)
    for note in notes:
        print(note, file=sys.stderr)
    folder = args.model or default_model(args.backend, args.device)
    backend, tokenizer = load_backend(folder, name=args.backend, device=args.device)
    grounder = Grounder(backend, tokenizer, config)
    result = ReplayResult()
    ended: Exception | KeyboardInterrupt | None = None
    try:
        with sigterm_interrupts(), _bar(source.length, "grounding") as bar:
            replay(grounder, source, queries, on_frame=bar.update, result=result)
    except (Exception, KeyboardInterrupt) as error:
        if not result.groundings:
            raise
        ended = error
    _print_problems(source, result)
    not_written = _write_results(args, result)
    _print_results(folder, source, queries, result, as_json=args.json or not_written is not None)
    if not_written is not None:
        raise LlavaStError(f"{not_written}; the results were printed instead") from not_written
    if ended is not None:
        raise _ended_early(ended, args, result) from ended
    _write_pictures(args, source, result)
    return 0


def _print_problems(source: Source, result: ReplayResult) -> None:
    if source.dropped:
        print(f"frames dropped: {source.dropped}; last error: {source.problem}", file=sys.stderr)
    for note in (*source.notes, *result.notes):
        print(note, file=sys.stderr)
    for query_id, failures in result.failures_by_query().items():
        print(
            f"query {query_id!r}: failed evaluations: {len(failures)}; last: {failures[-1].error}",
            file=sys.stderr,
        )


def _print_results(
    folder: Path, source: Source, queries: Sequence[Query], result: ReplayResult, *, as_json: bool
) -> None:
    from llava_st_ros.evaluation.replay_report import replay_json, tables

    if as_json:
        print(json.dumps(replay_json(folder, source, queries, result), indent=1))
    else:
        print_tables(*tables(result))


def _source(args: argparse.Namespace) -> Source:
    from llava_st_ros.media.sources import (
        BagSource,
        ImageFolderSource,
        ImageSource,
        VideoSource,
    )

    if args.topic is not None and not args.bag:
        raise ConfigError("--topic applies to --bag only")
    if args.fps is not None and not args.images:
        raise ConfigError("--fps applies to --images only: videos and bags have their own times")
    if args.video:
        return VideoSource(args.video)
    if args.images:
        return ImageFolderSource(args.images, 10.0 if args.fps is None else args.fps)
    if args.image:
        return ImageSource(args.image)
    return BagSource(args.bag, args.topic)


def _prepare_outputs(args: argparse.Namespace) -> None:
    """Create the output folders up front, so that an unwritable path fails immediately."""
    if args.overlay and args.overlay.suffix not in (".mp4", ".avi"):
        raise ConfigError(f"--overlay is {args.overlay}; expected a .mp4 or .avi file")
    check_is_no_input(args.overlay, args.video)
    check_is_no_input(args.out, args.images)  # a contact sheet would be one of the images
    check_folders(args.out)
    check_files(args.overlay)


def _write_results(args: argparse.Namespace, result: ReplayResult) -> LlavaStError | None:
    """Write the JSONL files, all or none; return the error if that fails.

    An earlier run's files are unchanged until all new ones are complete.
    """
    from llava_st_ros.evaluation.recording import write_json_lines
    from llava_st_ros.evaluation.replay_report import answers_json

    if not args.out:
        return None
    try:
        with staged_files(args.out) as stage:
            result.recording.write(stage)
            write_json_lines(stage / "answers.jsonl", answers_json(result))
    except OSError as error:
        return LlavaStError(f"cannot write the results to {args.out}: {reason_of(error)}")
    return None


def _ended_early(
    error: Exception | KeyboardInterrupt, args: argparse.Namespace, result: ReplayResult
) -> BaseException:
    """The error of a run that was ended before the end of the footage, with what was kept."""
    ns = sum(max(stream.stamps) - min(stream.stamps) for stream in result.streams)
    where = f"written to {args.out}" if args.out else "printed"
    kept = (
        f"the {len(result.groundings)} answers of the first {ns / NANOSECONDS:.1f} s were {where}"
    )
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError(f"interrupted: {kept}")
    if isinstance(error, LlavaStError):
        return LlavaStError(error.problem, "; ".join(filter(None, (error.remedy, kept))))
    print(kept, file=sys.stderr)
    return error


def _write_pictures(args: argparse.Namespace, source: Source, result: ReplayResult) -> None:
    from llava_st_ros.media.pictures import frame_rate, write_pictures

    if not (args.out or args.overlay):
        return
    try:
        with sigterm_interrupts(), _bar(len(result.stamps), "drawing") as bar:
            write_pictures(
                source,
                result.recording.annotations(result.stamps, result.frame_streams),
                fps=frame_rate(result.stamps),
                video=args.overlay,
                sheet=args.out / "contact_sheet.png" if args.out else None,
                on_frame=bar.update,
            )
    except KeyboardInterrupt as error:
        raise InterruptedRunError("interrupted while drawing: the results are complete") from error


def _bar(total: int | None, description: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit="frame", file=sys.stderr, disable=None)
