"""Writes a run's report: an HTML page, and CSV files of its figures and cases."""

from __future__ import annotations

from pathlib import Path

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.csv_tables import CASES_FILE, METRICS_FILE, cases_csv, metrics_csv
from llava_st_ros.evaluation.frame_readers import FrameReader
from llava_st_ros.evaluation.report_page.page import report_html
from llava_st_ros.evaluation.results import RESULTS_FILE, RunResults, write_results

REPORT_FILE = "report.html"


def write_run(results: RunResults, folder: Path, frames: FrameReader) -> Path:
    """Write results.json, then what ``write_report`` writes; return the path of the report."""
    write_results(folder / RESULTS_FILE, results)
    return write_report(results, folder, frames)


def write_report(results: RunResults, folder: Path, frames: FrameReader) -> Path:
    """Write report.html, metrics.csv and cases.csv beside a run's results.json.

    Args:
        results: The run.
        folder: An existing folder.
        frames: Reads the frames of the best and worst cases.

    Returns:
        The path of the report.

    Raises:
        OSError: A file cannot be written.
    """
    write_text(folder / METRICS_FILE, metrics_csv(results.rows))
    write_text(folder / CASES_FILE, cases_csv(results.cases))
    path = folder / REPORT_FILE
    write_text(path, report_html(results, frames))
    return path
