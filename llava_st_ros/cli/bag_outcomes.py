"""What a run on bags prints and writes, and its progress; shared by commands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.errors import DataError

if TYPE_CHECKING:
    from llava_st_ros.evaluation.bag_run import BagRun, ModelSettings
    from llava_st_ros.evaluation.results import MetricRow, RunResults

FAILED = 1  # exit code: some bags or cameras were not evaluated


def failures_of(bag_run: BagRun) -> list[str]:
    """Return which bags and cameras were not evaluated, and why, one line each."""
    from llava_st_ros.evaluation.jobs.records import JobFailure

    lines = []
    for index, job in enumerate(bag_run.jobs):
        outcome = bag_run.outcomes.get(index)
        if isinstance(outcome, JobFailure):
            lines.append(f"{job.name}: not evaluated: {outcome.reason}")
        elif outcome is not None:
            lines += outcome.failures
    return lines


def results_of(
    args: argparse.Namespace,
    bag_run: BagRun,
    model: ModelSettings,
    mode: str,
    seconds: float,
    **facts: Any,
) -> RunResults:
    """Return the results of the bags that were evaluated, in the order of the jobs.

    Args:
        args: The command's arguments, among them those of ``grounding_arguments``.
        bag_run: The run.
        model: What answered.
        mode: What was evaluated, and how.
        seconds: Wall time.
        facts: Further facts of this kind of run.

    Raises:
        DataError: No bag was evaluated.
    """
    from llava_st_ros.evaluation.about import about_run
    from llava_st_ros.evaluation.bag_evaluation import footage, run_results

    evaluated = bag_run.evaluated
    failures = failures_of(bag_run)
    if not evaluated:
        raise DataError("; ".join(failures))
    if bag_run.waiting:
        failures.append(f"{len(bag_run.waiting)} bags not evaluated: the run was interrupted")
    about = about_run(
        mode,
        model.path,
        model_sha256=model.sha256,
        backend=model.backend,
        device=model.device,
        seconds=seconds,
        period=args.period,
        window=args.window,
        history=args.history,
        no_match_threshold=args.no_match_threshold,
        min_confidence=args.min_confidence,
        **facts,
        **footage(evaluated),
    )
    return run_results(about, evaluated, failures)


def rows_of_all_queries(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Return the rows of all queries together."""
    from llava_st_ros.evaluation.streams.headline import ALL_QUERIES

    return [row for row in rows if row.task == ALL_QUERIES]


def print_run(
    args: argparse.Namespace,
    results: RunResults,
    ledger: Sequence[str],
    chosen: Callable[[Sequence[MetricRow]], list[MetricRow]] = rows_of_all_queries,
) -> None:
    """Print the results, and write them to --out.

    Args:
        args: The command's arguments, among them those of ``add_output_arguments``.
        results: The results.
        ledger: The lines of the ledger; none for no ledger.
        chosen: Returns the rows of the table on the terminal.
    """
    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.ledger import LEDGER_FILE, write_ledger
    from llava_st_ros.evaluation.report_page.report_files import write_run
    from llava_st_ros.evaluation.result_table import result_table
    from llava_st_ros.evaluation.results import results_json

    if args.json:
        print(json.dumps(results_json(results), indent=1, allow_nan=False))
    else:
        model, bags = Path(results.about["model"]).name, results.about["bags"]
        title = f"{model}: {len(results.cases)} queries on {bags} bags"
        print_tables(result_table(chosen(results.rows), title))
    for line in results.dropped:
        print(line, file=sys.stderr)
    if args.out is not None:
        if ledger:
            write_ledger(args.out / LEDGER_FILE, ledger)
        print(f"wrote {write_run(results, args.out, RecordedFrames())}", file=sys.stderr)


class FrameProgress:
    """A progress bar of the frames of several bags, with the time left.

    How many frames a bag has is known when it is opened; the others count as the mean of these.

    Args:
        bar: A bar of tqdm.
        bags: Number of bags.
    """

    def __init__(self, bar: Any, bags: int) -> None:
        self._bar, self._bags = bar, bags
        self._frames: dict[int, tuple[int, int]] = {}  # done and in all

    def set_frames(self, bag: int, done: int, total: int) -> None:
        """Show that some frames of a bag are done."""
        self._frames[bag] = done, total
        known = sum(total for _, total in self._frames.values())
        self._bar.total = round(known * self._bags / len(self._frames))
        self._bar.update(sum(done for done, _ in self._frames.values()) - self._bar.n)

    def finish(self, bag: int) -> None:
        """Show that a bag is done."""
        _, total = self._frames.get(bag, (0, 0))
        self.set_frames(bag, total, total)
        finished = sum(done == total for done, total in self._frames.values())
        self._bar.set_postfix_str(f"{finished} of {self._bags} bags")


@contextmanager
def frame_progress(bags: int) -> Iterator[FrameProgress]:
    """Show a progress bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc="evaluating", unit="frame", file=sys.stderr, disable=None) as bar:
        yield FrameProgress(bar, bags)
