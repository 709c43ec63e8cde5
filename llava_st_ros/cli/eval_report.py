"""``llava-st eval report``: the report of a run as HTML and CSV, made from its results.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.errors import DataError, LlavaStError

if TYPE_CHECKING:
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.results import RunResults

HELP = "write the report of a run (report.html, metrics.csv, cases.csv)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", metavar="RUN", type=Path, help="folder of a run, or its results.json"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write into this folder (default: the run's)"
    )
    parser.add_argument(
        "--footage",
        type=Path,
        metavar="DIR",
        help="folder of the recordings, for the pictures (default: where they were evaluated)",
    )
    parser.add_argument(
        "--mcap",
        type=Path,
        metavar="DIR",
        help="also write the boxes of each recording as MCAP, for Foxglove or Lichtblick",
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.report_page.report_files import write_report
    from llava_st_ros.evaluation.results import read_results

    results = read_results(args.results)
    run_folder = args.results if args.results.is_dir() else args.results.parent
    if args.footage is not None and not args.footage.is_dir():
        raise DataError(f"--footage is {args.footage}; there is no such folder")
    folder = args.out or run_folder
    check_folders(folder, args.mcap)
    folders = (args.footage,) if args.footage else (Path(), run_folder, run_folder.parent)
    frames = RecordedFrames(folders)
    path = write_report(results, folder, frames)
    print(f"written to {path}")
    if args.mcap is not None:
        _write_mcap(results, args.mcap, frames)
    return 0


def _write_mcap(results: RunResults, folder: Path, frames: RecordedFrames) -> None:
    """Write an MCAP file for each recording; one that cannot be read is named on stderr.

    Raises:
        DataError: No recording can be read.
    """
    from llava_st_ros.evaluation.annotation_mcap import write_annotation_mcap

    cases = [case for case in results.cases if case.expected or case.predicted]
    written: set[str] = set()
    problems = []
    for source in dict.fromkeys(case.source for case in cases):
        of_source = [case for case in cases if case.source == source]
        bag = frames.find(source)
        try:
            if bag is None:
                raise DataError(f"{source} was not found", "name its folder with --footage")
            name = _unused(bag.name.removesuffix(bag.suffix if bag.is_file() else ""), written)
            images = write_annotation_mcap(folder / name, bag, of_source)
        except LlavaStError as error:
            problems.append(error)
            print(f"no MCAP: {error}", file=sys.stderr)
        else:
            print(f"written to {folder / name}: {images} images")
    if not cases:
        raise DataError("no case of this run has a timeline, so there is nothing to draw")
    if len(problems) == len({case.source for case in cases}):
        raise problems[0]


def _unused(stem: str, names: set[str]) -> str:
    """A file name for a recording that no other recording of the run has."""
    number = 1
    while (name := f"{stem}{'' if number == 1 else f'-{number}'}.annotations.mcap") in names:
        number += 1
    names.add(name)
    return name
