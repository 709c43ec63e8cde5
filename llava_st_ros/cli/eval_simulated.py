"""``llava-st eval simulated``: score a checkpoint on simulated clips, next to a blind baseline."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.grounding_arguments import add_model_arguments
from llava_st_ros.cli.run_arguments import (
    add_output_arguments,
    add_threads_argument,
    add_workers_argument,
    check_counts,
    threads_of_process,
)
from llava_st_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = "evaluate a checkpoint on simulated clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "split",
        metavar="SPLIT",
        help="train, validation, test, unseen_objects, unseen_table, unseen_lens, wide or shifted",
    )
    parser.add_argument("--n", type=int, default=200, help="number of clips (default 200)")
    add_model_arguments(parser)
    parser.add_argument(
        "--tasks",
        default="REC,STVG,TVG,SVG,ELC,no_match",
        help="comma-separated; no_match: queries that match nothing (default %(default)s)",
    )
    parser.add_argument(
        "--no-blind",
        dest="blind",
        action="store_false",
        help="skip the baseline that sees black frames",
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep rendered clips here for later runs"
    )
    add_workers_argument(parser)
    add_threads_argument(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.cli.outputs import check_folders, print_tables
    from llava_st_ros.evaluation.about import about_run
    from llava_st_ros.evaluation.frame_readers import NoFrames
    from llava_st_ros.evaluation.report_page.report_files import write_run
    from llava_st_ros.evaluation.result_table import result_table
    from llava_st_ros.evaluation.results import RunResults, results_json
    from llava_st_ros.evaluation.scoring import summarize
    from llava_st_ros.evaluation.simulated_scores import EvaluationSettings, evaluate

    check_counts(args, "n", "workers")
    check_folders(args.store, args.out)
    folder = args.model or default_model(args.backend, args.device)
    settings = EvaluationSettings(
        model=folder,
        split=args.split,
        categories=_categories(args.tasks),
        backend=args.backend,
        device=args.device,
        blind=args.blind,
        store=args.store,
        threads=threads_of_process(args.threads, args.workers),
    )
    start = time.monotonic()
    with _progress(args.n) as advance:
        cases = evaluate(settings, args.n, args.workers, advance)
    rows = summarize(cases.sighted, cases.blind)
    about = about_run(
        "simulated clips",
        folder,
        backend=args.backend,
        device=args.device,
        seconds=time.monotonic() - start,
        split=args.split,
        clips=args.n,
    )
    results = RunResults(about, tuple(cases.sighted), tuple(rows))
    if args.json:
        print(json.dumps(results_json(results), indent=1, allow_nan=False))
    else:
        title = f"{folder.name} on {args.n} simulated clips of the {args.split} split"
        print_tables(result_table(rows, title))
    if args.out is not None:
        reason = "simulated clips are not stored"
        print(f"wrote {write_run(results, args.out, NoFrames(reason))}", file=sys.stderr)
    return 0


def _categories(text: str) -> tuple[str, ...]:
    from llava_st_ros.evaluation.scoring import CATEGORIES

    known = {name.upper(): name for name in CATEGORIES}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.upper() not in known:
            raise ConfigError(
                f"--tasks contains {name!r}; expected some of {', '.join(CATEGORIES)}"
            )
    if not names:
        raise ConfigError(f"--tasks is empty; expected some of {', '.join(CATEGORIES)}")
    return tuple(dict.fromkeys(known[name.upper()] for name in names))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; the context's function advances it by a number of clips."""
    from tqdm import tqdm

    with tqdm(total=total, desc="evaluating", unit="clip", file=sys.stderr, disable=None) as bar:

        def advance(clips: int) -> None:
            bar.update(clips)

        yield advance
