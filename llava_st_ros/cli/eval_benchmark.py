"""``llava-st eval benchmark``: evaluate a checkpoint on a public benchmark."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.grounding_arguments import add_model_arguments
from llava_st_ros.cli.outputs import InterruptedRunError, sigterm_interrupts
from llava_st_ros.cli.run_arguments import (
    add_output_arguments,
    add_threads_argument,
    add_workers_argument,
    check_counts,
    threads_of_process,
)
from llava_st_ros.errors import LlavaStError

if TYPE_CHECKING:
    from llava_st_ros.evaluation.benchmarks.evaluator import SampleOutcome
    from llava_st_ros.evaluation.benchmarks.samples import BenchmarkQuery

HELP = "evaluate a checkpoint on a public benchmark"
BENCHMARK_NAMES = (
    "st-align",
    "vidstg",
    "hc-stvg-v1",
    "hc-stvg-v2",
    "charades-sta",
    "refcoco",
    "refcoco+",
    "refcocog",
)
MAX_LISTED = 10  # bad records and media that are printed each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", choices=BENCHMARK_NAMES, help=", ".join(BENCHMARK_NAMES)
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="the annotation file"
    )
    parser.add_argument(
        "--media", type=Path, required=True, metavar="DIR", help="folder of the videos or images"
    )
    parser.add_argument(
        "--vidor", type=Path, metavar="DIR", help="VidOR's annotation files, the boxes of vidstg"
    )
    parser.add_argument(
        "--split",
        default="",
        help="st-align: stvg, svg or elc (default: the file's name); vidstg: declarative or "
        "interrogative (default: both)",
    )
    parser.add_argument(
        "--convention",
        default="ours",
        metavar="NAME",
        help="scoring convention: ours (default), all, or one that all prints",
    )
    parser.add_argument("--n", type=int, help="evaluate the first N samples (default: all)")
    add_model_arguments(parser)
    add_workers_argument(parser)
    add_threads_argument(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.cli.convention_tables import convention_tables
    from llava_st_ros.cli.outputs import check_folders, print_tables
    from llava_st_ros.evaluation.about import about_run
    from llava_st_ros.evaluation.benchmarks.catalogue import (
        BENCHMARKS,
        BenchmarkFiles,
        read_benchmark,
    )
    from llava_st_ros.evaluation.benchmarks.media import require_some_media
    from llava_st_ros.evaluation.benchmarks.run import RunSettings
    from llava_st_ros.evaluation.benchmarks.summary import run_results
    from llava_st_ros.evaluation.conventions.catalogue import conventions_named
    from llava_st_ros.evaluation.frame_readers import RecordedFrames
    from llava_st_ros.evaluation.report_page.report_files import write_run
    from llava_st_ros.evaluation.results import results_json
    from llava_st_ros.files.checksums import sha256_of

    check_counts(args, "n", "workers")
    conventions = conventions_named(args.convention)
    check_folders(args.out)
    read = read_benchmark(
        args.name, BenchmarkFiles(args.annotations, args.split, args.vidor, args.n)
    )
    samples = read.samples
    require_some_media(args.media, samples)
    model = args.model or default_model(args.backend, args.device)
    settings = RunSettings(
        model,
        args.media,
        tuple(convention.name for convention in conventions),
        args.backend,
        args.device,
        threads=threads_of_process(args.threads, args.workers),
    )
    start = time.monotonic()
    outcomes: dict[int, SampleOutcome] = {}
    failure: BaseException | None = None
    try:
        with sigterm_interrupts():
            _evaluate(settings, samples, args.workers, outcomes)
    except (KeyboardInterrupt, LlavaStError) as error:
        if not outcomes:
            raise
        failure = error
    about = about_run(
        f"benchmark, {BENCHMARKS[args.name].title}",
        model,
        backend=args.backend,
        device=args.device,
        seconds=time.monotonic() - start,
        benchmark=args.name,
        split=args.split,
        annotations=str(args.annotations),
        annotations_sha256=sha256_of(args.annotations),
        media=str(args.media),
        samples=len(samples),
    )
    results = run_results(about, read, outcomes, len(samples), conventions)
    if args.out is not None:
        write_run(results, args.out, RecordedFrames())
    if args.json:
        print(json.dumps(results_json(results), indent=1, allow_nan=False))
    else:
        title = f"{model.name} on {BENCHMARKS[args.name].title}"
        print_tables(*convention_tables(results.rows, conventions, title))
    _print_notes(results.dropped, results.about["notes"])
    if isinstance(failure, LlavaStError):
        raise failure
    if failure is not None:
        kept = f"{len(outcomes)} of {len(samples)} samples are evaluated"
        raise InterruptedRunError(f"interrupted: {kept}") from failure
    return 0


def _evaluate(
    settings: Any,
    samples: Sequence[BenchmarkQuery],
    workers: int,
    outcomes: dict[int, SampleOutcome],
) -> None:
    """Evaluate the samples, with a progress bar; ``outcomes`` keeps what is done."""
    from tqdm import tqdm

    from llava_st_ros.evaluation.benchmarks.run import evaluate_samples

    with tqdm(
        total=len(samples), desc="evaluating", unit="sample", file=sys.stderr, disable=None
    ) as bar:
        for index, outcome in evaluate_samples(settings, samples, workers):
            outcomes[index] = outcome
            bar.update()


def _print_notes(dropped: Sequence[str], notes: Sequence[str]) -> None:
    for title, lines in (("not evaluated", dropped), ("note", notes)):
        for line in lines[:MAX_LISTED]:
            print(f"{title}: {line}", file=sys.stderr)
        if len(lines) > MAX_LISTED:
            print(f"{title}: {len(lines) - MAX_LISTED} more, in the results", file=sys.stderr)
