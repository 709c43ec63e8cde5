"""``llava-st eval bag``: how well and how timely standing queries are answered on bags."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.grounding_arguments import add_grounding_arguments, grounder_config
from llava_st_ros.cli.run_arguments import (
    add_output_arguments,
    add_threads_argument,
    check_counts,
    threads_of_process,
)
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE

if TYPE_CHECKING:
    from llava_st_ros.evaluation.bag_run import BagRun, ModelSettings
    from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster
    from llava_st_ros.evaluation.results import RunResults

HELP = "evaluate standing queries on annotated bags"
FAILED = 1  # exit code: some bags or cameras were not evaluated


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
        help="replay at the pace of a robot: each answer takes this long, and the stream "
        "continues; measured, seconds (0.5), or quantiles in seconds (p50=0.8,p99=1.5) (default: "
        "offline, every due query is answered)",
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
    parser.add_argument(
        "--node",
        nargs="?",
        const="grounding",
        metavar="NAME",
        help="evaluate a running node over ROS instead of a model (default name: grounding)",
    )
    parser.add_argument(
        "--node-topic",
        default="",
        metavar="TOPIC",
        help="with --node: image topic of the node (default: the bag's, or the node's only one)",
    )
    add_grounding_arguments(parser)
    parser.set_defaults(parser=parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with its own model; on a CPU at most one per core (default 1; with "
        "--ray as many as the cluster can run)",
    )
    add_threads_argument(parser)
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="run the bags on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local, which "
        "starts one here",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take the outcomes of unchanged bags from an earlier run in --out",
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import model_checksum
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.cli.extras import requires_extra
    from llava_st_ros.cli.outputs import InterruptedRunError, check_folders, sigterm_interrupts
    from llava_st_ros.evaluation.bag_evaluation import BagJob
    from llava_st_ros.evaluation.bag_run import BagRun, BagWorker, ModelSettings, bag_jobs

    start = time.monotonic()
    if args.node is not None:
        return _run_on_node(args, start)
    if args.node_topic:
        raise ConfigError("--node-topic applies with --node only")
    check_counts(args, "workers")
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
    mode = f"bag, {settings.mode or 'offline'}"
    jobs = bag_jobs(args.bags, args.annotations, settings)
    check_folders(args.out)
    model = args.model or default_model(args.backend, args.device)
    workers = args.workers or 1
    # The tasks of a Ray cluster take one core each.
    threads = 1 if args.ray and args.threads is None else threads_of_process(args.threads, workers)
    answering = ModelSettings(model, args.backend, args.device, threads, model_checksum(model))
    bag_run = BagRun(jobs, BagWorker(answering), folder=args.out, resume=args.resume)
    for line in bag_run.repeated:
        print(f"evaluated again: {line}", file=sys.stderr)
    interrupted = False
    try:
        with (
            sigterm_interrupts(),
            frame_progress(len(bag_run.waiting)) as progress,
            requires_extra("ray" if args.ray else "evaluation"),
        ):
            for index in bag_run.run(
                workers=workers, ray=_cluster(args, model), on_progress=progress.set_frames
            ):
                progress.finish(index)
    except KeyboardInterrupt:
        if not bag_run.outcomes:
            raise
        interrupted = True
    results = _results(args, bag_run, answering, mode, time.monotonic() - start)
    _print(args, results, [line for outcome in bag_run.evaluated for line in outcome.ledger])
    if interrupted:
        resume = "; --resume continues" if args.out is not None else ""
        raise InterruptedRunError(
            f"interrupted: {len(bag_run.outcomes)} of {len(jobs)} bags are evaluated{resume}"
        )
    return FAILED if _failures(bag_run) else 0


def _run_on_node(args: argparse.Namespace, start: float) -> int:
    from llava_st_ros.cli.outputs import check_folders, sigterm_interrupts
    from llava_st_ros.cli.running_node import reject_model_arguments, run_on_node
    from llava_st_ros.evaluation.about import about_node
    from llava_st_ros.evaluation.bag_evaluation import footage, run_results

    reject_model_arguments(args, args.parser)
    check_folders(args.out)
    with sigterm_interrupts():
        node, outcomes, failures = run_on_node(args)
    about = about_node(
        "bag, node",
        node.node,
        node.facts,
        seconds=time.monotonic() - start,
        period=args.period,
        **footage(outcomes),
    )
    _print(args, run_results(about, outcomes, failures), ())
    return FAILED if failures else 0


def _max_frame_rate(args: argparse.Namespace) -> float:
    rate = MAX_FRAME_RATE if args.max_frame_rate is None else float(args.max_frame_rate)
    if args.max_frame_rate is not None and not args.latency:
        raise ConfigError("--max-frame-rate applies with --latency only: offline uses all frames")
    if not 0 <= rate <= 1000:
        raise ConfigError(f"--max-frame-rate is {rate:g}; expected 0 to 1000 Hz")
    return rate


def _cluster(args: argparse.Namespace, model: Path) -> RayCluster | None:
    from llava_st_ros.backends import runtime_and_device
    from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster

    if not args.ray:
        return None
    device = runtime_and_device(model, args.backend, args.device)[1]
    return RayCluster(args.ray, args.workers, gpus=int(device.startswith("cuda")))


def _failures(bag_run: BagRun) -> list[str]:
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


def _results(
    args: argparse.Namespace, bag_run: BagRun, model: ModelSettings, mode: str, seconds: float
) -> RunResults:
    """Return the results of the bags that were evaluated, in the order of the arguments.

    Raises:
        DataError: No bag was evaluated.
    """
    from llava_st_ros.evaluation.about import about_run
    from llava_st_ros.evaluation.bag_evaluation import footage, run_results

    evaluated = bag_run.evaluated
    failures = _failures(bag_run)
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
        **footage(evaluated),
    )
    return run_results(about, evaluated, failures)


def _print(args: argparse.Namespace, results: RunResults, ledger: Sequence[str]) -> None:
    """Print the results, and write them to --out."""
    from llava_st_ros.cli.extras import requires_extra
    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.evaluation.bag_evaluation import ALL_QUERIES
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
        rows = [row for row in results.rows if row.task == ALL_QUERIES]
        print_tables(result_table(rows, title))
    for line in results.dropped:
        print(line, file=sys.stderr)
    if args.out is not None:
        if ledger:
            write_ledger(args.out / LEDGER_FILE, ledger)
        with requires_extra("evaluation"):
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
