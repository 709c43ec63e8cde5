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
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: llava-st-tiny)")
    parser.add_argument("--backend", default="torch", help="runtime (default torch)")
    parser.add_argument("--device", default="cpu", help="device (default cpu)")
    parser.add_argument(
        "--tasks",
        default="REC,STVG,TVG,SVG,ELC,nothing",
        help="comma-separated; nothing: questions that nothing answers (default %(default)s)",
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
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import load_backend
    from llava_st_ros.evaluation.report import as_json, as_table, summarise
    from llava_st_ros.evaluation.simulated import (
        BlindBackend,
        SimulatedEvaluation,
        simulated_cases,
    )
    from llava_st_ros.model_path import default_model

    if args.n < 1:
        raise ConfigError(f"--n {args.n}", "at least one clip", "correct it")
    subjects = _subjects(args.tasks)
    folder = args.model or default_model()
    backend, tokenizer = load_backend(folder, name=args.backend, device=args.device)
    config = backend.describe().model
    seeing = SimulatedEvaluation(backend, tokenizer)
    runs = [seeing]
    if args.blind:
        runs.append(SimulatedEvaluation(BlindBackend(backend), tokenizer))
    began = time.monotonic()
    clips = simulated_cases(args.simulated, args.n, config, subjects=subjects, store=args.store)
    with _progress(args.n * len(subjects) * len(runs)) as advance:
        for clip in clips:
            for evaluation in runs:
                evaluation.run(clip, advance)
    rows = summarise(seeing.scores, runs[1].scores if args.blind else None)
    if args.json:
        report = as_json(
            rows,
            model=str(folder),
            split=args.simulated,
            clips=args.n,
            backend=args.backend,
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
            raise ConfigError(f"task {name!r}", f"some of {', '.join(SUBJECTS)}", "correct --tasks")
    if not names:
        raise ConfigError("no task", f"some of {', '.join(SUBJECTS)}", "correct --tasks")
    return tuple(dict.fromkeys(known[name.upper()] for name in names))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr that moves by one question at each call."""
    from tqdm import tqdm

    with tqdm(total=total, desc="asking", unit="question", file=sys.stderr, disable=None) as bar:

        def advance() -> None:
            bar.update()

        yield advance
