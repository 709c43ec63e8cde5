"""``llava-st eval``: how well a checkpoint grounds, beside how well it would blindfolded."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = "measure a checkpoint on simulated clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulated", metavar="SPLIT", required=True, help="the simulator's split: test, ..."
    )
    parser.add_argument("--n", type=int, default=200, help="clips (default 200)")
    parser.add_argument(
        "--model", type=Path, help="checkpoint or engine directory (default: llava-st-tiny)"
    )
    parser.add_argument(
        "--backend", default="", help="runtime (default: as the model's folder says)"
    )
    parser.add_argument(
        "--device", default="", help="device (default: a GPU for TensorRT, else cpu)"
    )
    parser.add_argument(
        "--tasks",
        default="REC,STVG,TVG,SVG,ELC,no_match",
        help="comma-separated; no_match: queries that match nothing (default %(default)s)",
    )
    parser.add_argument(
        "--no-blind",
        dest="blind",
        action="store_false",
        help="leave out the baseline that sees black frames",
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="keep rendered clips here for the next run"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, each with the model; on a CPU as many as cores (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import backend_of
    from llava_st_ros.backends.default_model import default_model
    from llava_st_ros.evaluation.report import as_json, as_table, summarize
    from llava_st_ros.evaluation.simulated_scores import Measurement, measure

    for name, value in (("--n", args.n), ("--workers", args.workers)):
        if value < 1:
            raise ConfigError(f"{name} {value}; expected at least 1")
    folder = args.model or default_model(args.backend, args.device)
    measurement = Measurement(
        model=folder,
        split=args.simulated,
        subjects=_subjects(args.tasks),
        backend=args.backend,
        device=args.device,
        blind=args.blind,
        store=args.store,
        # Processes that share the cores do not share them again among threads.
        threads=1 if args.workers > 1 else 0,
    )
    began = time.monotonic()
    with _progress(args.n) as advance:
        scores = measure(measurement, args.n, args.workers, advance)
    rows = summarize(scores.seeing, scores.blind if args.blind else None)
    if args.json:
        report = as_json(
            rows,
            model=str(folder),
            split=args.simulated,
            clips=args.n,
            backend=args.backend or backend_of(folder),
            device=args.device,
            seconds=round(time.monotonic() - began, 1),
        )
        print(json.dumps(report, indent=1))
    else:
        from rich.console import Console

        title = f"{folder.name} on {args.n} {args.simulated} clips of the simulator"
        Console().print(as_table(rows, title))
    return 0


def _subjects(text: str) -> tuple[str, ...]:
    from llava_st_ros.evaluation.scoring import SUBJECTS

    known = {name.upper(): name for name in SUBJECTS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.upper() not in known:
            raise ConfigError(f"task {name!r}; expected some of {', '.join(SUBJECTS)}")
    if not names:
        raise ConfigError(f"no task; expected some of {', '.join(SUBJECTS)}")
    return tuple(dict.fromkeys(known[name.upper()] for name in names))


@contextmanager
def _progress(clips: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that moves on by so many clips at each call."""
    from tqdm import tqdm

    with tqdm(total=clips, desc="asking", unit="clip", file=sys.stderr, disable=None) as bar:

        def advance(clips: int) -> None:
            bar.update(clips)

        yield advance
