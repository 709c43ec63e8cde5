"""``llava-st train calibrate``: make a checkpoint's probabilities frequencies of right answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.run_arguments import (
    add_threads_argument,
    add_workers_argument,
    check_counts,
    threads_of_process,
)
from llava_st_ros.cli.stream_arguments import add_seconds_argument, stream_store
from llava_st_ros.errors import ConfigError

if TYPE_CHECKING:
    from llava_st_ros.evaluation.match_samples import MatchSample
    from llava_st_ros.training.calibration.fit import Reliability

HELP = "calibrate a checkpoint's probabilities on simulated clips and streams"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint folder")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="calibrated checkpoint to write: a new folder, or the checkpoint itself",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["validation", "shifted"],
        metavar="SPLIT",
        help="splits of the simulator (default validation shifted)",
    )
    parser.add_argument(
        "--clips", type=int, default=200, metavar="N", help="clips of each split (default 200)"
    )
    parser.add_argument(
        "--streams", type=int, default=12, metavar="N", help="streams of each split (default 12)"
    )
    add_seconds_argument(parser)
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep the recorded streams here for later runs"
    )
    parser.add_argument("--device", default="", help="device of the model (default cpu)")
    add_workers_argument(parser)
    add_threads_argument(parser)
    parser.add_argument(
        "--diagram", type=Path, metavar="FILE.png", help="draw the reliability before and after"
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import (
        check_files,
        check_folders,
        print_tables,
        sigterm_interrupts,
    )
    from llava_st_ros.training.calibration.checkpoint_folder import check_target, write_calibrated
    from llava_st_ros.training.calibration.diagram import draw_reliability
    from llava_st_ros.training.calibration.fit import fit_calibration, measure

    check_counts(args, "clips", "streams", "workers")
    if args.diagram is not None and args.diagram.suffix.lower() != ".png":
        raise ConfigError(f"--diagram is {args.diagram}; expected a .png file")
    check_target(args.checkpoint, args.out)
    check_folders(args.store, args.out.parent)
    check_files(args.diagram)
    with sigterm_interrupts():
        samples = _samples(args)
    calibration, not_calibrated = fit_calibration(samples)
    measured, not_measured = measure(samples)
    write_calibrated(args.checkpoint, args.out, calibration)
    print_tables(_table(measured))
    for line in (*not_calibrated, *not_measured):
        print(line, file=sys.stderr)
    if args.diagram is not None:
        draw_reliability(measured, args.diagram)
        print(f"wrote {args.diagram}", file=sys.stderr)
    print(f"wrote {args.out}", file=sys.stderr)
    return 0


def _samples(args: argparse.Namespace) -> list[MatchSample]:
    """Return the samples of all splits; a progress bar is on stderr."""
    from tqdm import tqdm

    from llava_st_ros.evaluation.simulated_streams import StreamSplit
    from llava_st_ros.training.calibration.samples import SampleSource, collect_samples

    splits = tuple(StreamSplit(name, args.seconds) for name in dict.fromkeys(args.split))
    threads = threads_of_process(args.threads, args.workers)
    with stream_store(args.store) as store:
        source = SampleSource(
            args.checkpoint, splits, args.clips, args.streams, store, args.device, threads
        )
        with tqdm(total=source.total, desc="answering", file=sys.stderr, disable=None) as bar:
            return collect_samples(source, args.workers, bar.update)


def _table(measured: list[Reliability]) -> Any:
    from llava_st_ros.cli.figure_tables import text_table
    from llava_st_ros.evaluation.match_samples import STREAMS

    title = "calibration; after: of each half, by the fit to the other half"
    figures = ("samples", "right", "ECE", "after", "Brier", "after")
    table = text_table(title, ("queries", "tasks", "probability"), figures)
    for each in measured:
        before, after = each.errors(each.before), each.errors(each.after)
        table.add_row(
            "standing" if each.origin == STREAMS else "one-shot",
            each.modality.value,
            each.quantity,
            str(len(each.outcomes)),
            f"{each.outcomes.mean():.3f}",
            *(f"{value:.3f}" for pair in zip(before, after) for value in pair),
        )
    return table
