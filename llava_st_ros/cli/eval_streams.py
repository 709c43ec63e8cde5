"""``llava-st eval streams``: how well standing queries are answered on simulated streams."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.bag_outcomes import (
    FAILED,
    failures_of,
    frame_progress,
    print_run,
    results_of,
)
from llava_st_ros.cli.grounding_arguments import (
    add_grounding_arguments,
    add_track_rate_argument,
    grounder_config,
    track_rate,
)
from llava_st_ros.cli.run_arguments import (
    add_output_arguments,
    add_threads_argument,
    add_workers_argument,
    check_counts,
    threads_of_process,
)
from llava_st_ros.cli.stream_arguments import add_seconds_argument, stream_store

if TYPE_CHECKING:
    from llava_st_ros.evaluation.bag_evaluation import BagJob
    from llava_st_ros.evaluation.bag_run import BagWorker
    from llava_st_ros.evaluation.setting_sweep import Changes

VARIANTS_FILE = "variants.json"
VARIANTS_OF_TABLE = 5  # that 80 columns have room for
HELP = "evaluate standing queries on simulated streams"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("split", metavar="SPLIT", help="of the simulator, as for 'eval simulated'")
    parser.add_argument("--n", type=int, default=40, help="number of streams (default 40)")
    parser.add_argument(
        "--queries",
        type=int,
        default=5,
        metavar="N",
        help="standing queries of a stream: a third never happens, a fifth follows an object "
        "(default 5)",
    )
    add_seconds_argument(parser)
    parser.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between evaluations of a query (default 1)",
    )
    add_track_rate_argument(parser)
    add_grounding_arguments(parser)
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="compare values of a setting instead, e.g. no_match_threshold=0.5,0.2; the model runs "
        "once; given several times: all combinations",
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep the recorded streams here for later runs"
    )
    add_workers_argument(parser)
    add_threads_argument(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from llava_st_ros.backends import model_checksum
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.cli.outputs import check_folders, sigterm_interrupts
    from llava_st_ros.evaluation.bag_evaluation import BagJob
    from llava_st_ros.evaluation.bag_run import BagWorker, ModelSettings, bag_jobs
    from llava_st_ros.evaluation.setting_sweep import Variation, combinations
    from llava_st_ros.evaluation.simulated_streams import StreamSplit, record_streams

    start = time.monotonic()
    check_counts(args, "n", "workers")
    split = StreamSplit(args.split, args.seconds, args.queries)
    settings = BagJob(
        "",
        Path(),
        Path(),
        config=grounder_config(args),
        period=args.period,
        track_rate=track_rate(args),
    )
    changes = combinations([Variation.parse(text) for text in args.vary])
    for changed in changes:
        replace(settings.config, **changed)  # rejects a value before long work starts
    check_folders(args.store, args.out)
    model = args.model or default_model(args.backend, args.device)
    threads = threads_of_process(args.threads, args.workers)
    answering = ModelSettings(model, args.backend, args.device, threads, model_checksum(model))
    with sigterm_interrupts(), stream_store(args.store) as store:
        with tqdm(
            total=args.n, desc="recording", unit="stream", file=sys.stderr, disable=None
        ) as bar:
            bags = record_streams(split, range(args.n), store, args.workers, bar.update)
        jobs, worker = bag_jobs(bags, (), settings), BagWorker(answering)
        if args.vary:
            return _compare(args, jobs, worker, changes)
        return _evaluate(args, jobs, worker, start)


def _evaluate(
    args: argparse.Namespace, jobs: Sequence[BagJob], worker: BagWorker, start: float
) -> int:
    from llava_st_ros.evaluation.bag_run import BagRun
    from llava_st_ros.evaluation.streams.headline import headline

    bag_run = BagRun(jobs, worker, folder=args.out)
    with frame_progress(len(jobs)) as progress:
        for index in bag_run.run(workers=args.workers, on_progress=progress.set_frames):
            progress.finish(index)
    results = results_of(
        args,
        bag_run,
        worker.model,
        "streams, offline",
        time.monotonic() - start,
        track_rate=jobs[0].track_rate,
        split=args.split,
        seconds_of_stream=list(args.seconds),
        queries_of_stream=args.queries,
    )
    ledger = [line for outcome in bag_run.evaluated for line in outcome.ledger]
    print_run(args, results, ledger, headline)
    return FAILED if failures_of(bag_run) else 0


def _compare(
    args: argparse.Namespace, jobs: Sequence[BagJob], worker: BagWorker, changes: Sequence[Changes]
) -> int:
    """Print the figures of each combination of settings, and write them to --out."""
    from llava_st_ros.atomic_files import write_text
    from llava_st_ros.cli.figure_tables import add_row, name_of, number, text_table
    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.evaluation.results import without_nan
    from llava_st_ros.evaluation.setting_sweep import sweep_bags
    from llava_st_ros.evaluation.streams.headline import headline

    with frame_progress(len(jobs)) as progress:
        rows = sweep_bags(jobs, worker, changes, args.workers, progress.set_frames)
    variants = [
        {
            "settings": dict(changed),
            "figures": {f"{row.task}/{row.metric}": row.value for row in of_variant},
        }
        for changed, of_variant in zip(changes, rows)
    ]
    report = {"split": args.split, "streams": len(jobs), "variants": variants}
    text = json.dumps(without_nan(report), indent=1)
    if args.out is not None:
        write_text(args.out / VARIANTS_FILE, text + "\n")
        print(f"wrote {args.out / VARIANTS_FILE}", file=sys.stderr)
    if args.json:
        print(text)
        return 0
    title = f"{', '.join(changes[0])} on {len(jobs)} streams"
    tables = []
    for first in range(0, len(changes), VARIANTS_OF_TABLE):
        shown = slice(first, first + VARIANTS_OF_TABLE)
        columns = ["\n".join(map(json.dumps, changed.values())) for changed in changes[shown]]
        table = text_table(title, ("", "figure"), columns)
        for of_metric in zip(*map(headline, rows[shown])):
            row = of_metric[0]
            add_row(table, row.task, name_of(row), *(number(row.value) for row in of_metric))
        tables.append(table)
    print_tables(*tables)
    return 0
