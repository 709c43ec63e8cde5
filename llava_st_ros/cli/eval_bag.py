"""``llava-st eval bag``: how well and how timely standing queries are answered on bags."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
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
    check_counts,
    threads_of_process,
)
from llava_st_ros.errors import ConfigError
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE

if TYPE_CHECKING:
    from llava_st_ros.evaluation.jobs.ray_cluster import RayCluster

HELP = "evaluate standing queries on annotated bags"


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
    add_track_rate_argument(parser)
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
        track_rate(args),
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
            requires_extra("ray") if args.ray else nullcontext(),
        ):
            for index in bag_run.run(
                workers=workers, ray=_cluster(args, model), on_progress=progress.set_frames
            ):
                progress.finish(index)
    except KeyboardInterrupt:
        if not bag_run.outcomes:
            raise
        interrupted = True
    rates = {"max_frame_rate": settings.max_frame_rate} if settings.latency else {}
    results = results_of(
        args,
        bag_run,
        answering,
        mode,
        time.monotonic() - start,
        track_rate=settings.track_rate,
        **rates,
    )
    print_run(args, results, [line for outcome in bag_run.evaluated for line in outcome.ledger])
    if interrupted:
        resume = "; --resume continues" if args.out is not None else ""
        raise InterruptedRunError(
            f"interrupted: {len(bag_run.outcomes)} of {len(jobs)} bags are evaluated{resume}"
        )
    return FAILED if failures_of(bag_run) else 0


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
    print_run(args, run_results(about, outcomes, failures), ())
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
