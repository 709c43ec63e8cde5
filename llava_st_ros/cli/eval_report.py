"""``llava-st eval report``: the report of a run as HTML and CSV, made from its results.json."""

from __future__ import annotations

import argparse
from pathlib import Path

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


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.extras import requires_extra
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.errors import DataError
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.report_page.report_files import write_report
    from llava_st_ros.evaluation.results import read_results

    results = read_results(args.results)
    run_folder = args.results if args.results.is_dir() else args.results.parent
    if args.footage is not None and not args.footage.is_dir():
        raise DataError(f"--footage is {args.footage}; there is no such folder")
    folder = args.out or run_folder
    check_folders(folder)
    folders = (args.footage,) if args.footage else (Path(), run_folder, run_folder.parent)
    with requires_extra("evaluation"):
        path = write_report(results, folder, RecordedFrames(folders))
    print(f"written to {path}")
    return 0
