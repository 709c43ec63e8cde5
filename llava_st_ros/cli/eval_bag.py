"""``llava-st eval bag``: how well and how timely standing queries are answered on bags."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.grounding_arguments import add_grounding_arguments, grounder_config
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE

if TYPE_CHECKING:
    from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome
    from llava_st_ros.evaluation.jobs import JobFailure
HELP = "evaluate standing queries on annotated bags"
FAILED = 1  # exit code: some bags were not evaluated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 recordings (sqlite3 or MCAP)"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="one for each bag (default: annotations.json in the bag, or NAME.annotations.json "
        "beside a single file)",
    )
    parser.add_argument("--topic", default="", help="image topic (default: all annotated ones)")
    parser.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between evaluations of a query (default 1)",
    )
    parser.add_argument(
        "--latency",
        default="",
        metavar="L",
        help="replay at the pace of a robot: each answer takes this long and the stream goes on; "
        "measured, seconds (0.5), or quantiles in seconds (p50=0.8,p99=1.5) (default: offline, "
        "every due query is answered)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the latencies that are drawn (default 0)"
    )
    parser.add_argument(
        "--max-frame-rate",
        type=float,
        metavar="HZ",
        help="with --latency: skip frames above this rate, as the node; 0: none (default "
        f"{MAX_FRAME_RATE:g})",
    )
    add_grounding_arguments(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, each with its own model; on a CPU at most one per core (default 1)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write the results and the report here"
    )
    parser.add_argument(
        "--resume", action="store_true", help="take what is unchanged from an earlier run in --out"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import model_checksum
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.cli.extras import requires_extra
    from llava_st_ros.cli.outputs import (
        InterruptedRunError,
        check_folders,
        print_tables,
        sigterm_interrupts,
    )
    from llava_st_ros.evaluation.about import about_run
    from llava_st_ros.evaluation.bag_evaluation import (
        ALL_QUERIES,
        BagJob,
        BagOutcome,
        stream_rows,
    )
    from llava_st_ros.evaluation.bag_run import BagTask, bag_jobs, run_bags
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.ledger import LEDGER_FILE, write_ledger
    from llava_st_ros.evaluation.report_page.report_files import write_run
    from llava_st_ros.evaluation.result_table import result_table
    from llava_st_ros.evaluation.results import RunResults, results_json

    if args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}; expected at least 1")
    if args.resume and args.out is None:
        raise ConfigError("--resume needs --out, the folder of the earlier run")
    settings = BagJob(
        "",
        Path(),
        Path(),
        args.topic,
        grounder_config(args),
        args.period,
        args.latency,
        args.seed,
        _max_frame_rate(args),
    )
    mode = settings.mode
    jobs = bag_jobs(args.bags, args.annotations, settings)
    check_folders(args.out)
    model = args.model or default_model(args.backend, args.device)
    # One thread per process: the processes already share the cores.
    threads = 1 if args.workers > 1 else 0
    checksum = model_checksum(model)
    tasks = [BagTask(job, model, args.backend, args.device, threads, checksum) for job in jobs]
    start = time.monotonic()
    outcomes: dict[str, BagOutcome | JobFailure] = {}
    interrupted = False
    try:
        with (
            sigterm_interrupts(),
            _progress(jobs, args.workers) as (on_frame, on_bag),
            requires_extra("evaluation"),
        ):
            for job, outcome in run_bags(
                tasks,
                workers=args.workers,
                folder=args.out,
                resume=args.resume,
                on_frame=on_frame,
            ):
                outcomes[job.name] = outcome
                on_bag()
    except KeyboardInterrupt:
        if not outcomes:
            raise
        interrupted = True
    done: dict[str, BagOutcome] = {}
    failed: list[str] = []
    for name in (job.name for job in jobs if job.name in outcomes):
        result = outcomes[name]
        if isinstance(result, BagOutcome):
            done[name] = result
        else:
            failed.append(f"{name}: not evaluated: {result.reason}")
    if not done:
        raise DataError("; ".join(failed))
    cases = tuple(case for found in done.values() for case in found.cases)
    dropped = [line for found in done.values() for line in found.dropped] + failed
    about = about_run(
        f"bag, {mode or 'offline'}",
        model,
        backend=args.backend,
        device=args.device,
        seconds=time.monotonic() - start,
        bags=len(done),
        frames=sum(found.frames for found in done.values()),
        footage_seconds=round(sum(found.seconds for found in done.values()), 3),
    )
    latency: dict[str, tuple[float, ...]] = {}
    for outcome in done.values():
        for stage, samples in outcome.latency.items():
            latency[stage] = latency.get(stage, ()) + tuple(samples)
    results = RunResults(about, cases, tuple(stream_rows(cases)), tuple(dropped), latency)
    if args.json:
        print(json.dumps(results_json(results), indent=1, allow_nan=False))
    else:
        title = f"{model.name}: {len(cases)} queries on {len(done)} bags"
        rows = [row for row in results.rows if row.task == ALL_QUERIES]
        print_tables(result_table(rows, title))
    for line in dropped:
        print(line, file=sys.stderr)
    if args.out is not None:
        lines = (line for outcome in done.values() for line in outcome.ledger)
        write_ledger(args.out / LEDGER_FILE, lines)
        with requires_extra("evaluation"):
            print(f"wrote {write_run(results, args.out, RecordedFrames())}", file=sys.stderr)
    if interrupted:
        resume = "; --resume continues" if args.out is not None else ""
        raise InterruptedRunError(
            f"interrupted: {len(done)} of {len(jobs)} bags are evaluated{resume}"
        )
    return FAILED if failed else 0


def _max_frame_rate(args: argparse.Namespace) -> float:
    rate = MAX_FRAME_RATE if args.max_frame_rate is None else float(args.max_frame_rate)
    if args.max_frame_rate is not None and not args.latency:
        raise ConfigError("--max-frame-rate applies with --latency only: offline uses all frames")
    if not 0 <= rate <= 1000:
        raise ConfigError(f"--max-frame-rate is {rate:g}; expected 0 to 1000 Hz")
    return rate


@contextmanager
def _progress(
    jobs: list[BagJob], workers: int
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Show a progress bar on stderr: of frames with one process, otherwise of bags.

    The context's functions are called after a frame and after a bag.
    """
    from tqdm import tqdm

    by_frame = workers == 1
    total = None if by_frame else len(jobs)
    unit = "frame" if by_frame else "bag"
    with tqdm(total=total, desc="evaluating", unit=unit, file=sys.stderr, disable=None) as bar:
        yield (bar.update, lambda: None) if by_frame else (lambda: None, bar.update)
