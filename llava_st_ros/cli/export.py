"""``llava-st export``: a checkpoint becomes an engine directory; and what such a directory is.

``llava-st export --checkpoint DIR --target T --out DIR``, or an ACTION: a module
``export_<action>`` of this package.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.actions import add_actions
from llava_st_ros.errors import ConfigError

if TYPE_CHECKING:
    from llava_st_ros.export.calibration import Questions

HELP = "make engines of a checkpoint, and check them"
ACTIONS = ("verify", "inspect", "plan")
SIMULATED = 16  # clips that int8 is calibrated on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="what to export (default: llava-st-tiny)"
    )
    parser.add_argument("--target", default="cpu", help="for which machine (default cpu)")
    parser.add_argument("--precision", help="of the network (default: the target's first)")
    parser.add_argument("--device", help="where the proof runs (default: the target's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the engine directory to make")
    parser.add_argument(
        "--plugins",
        type=Path,
        metavar="LIBRARY.so",
        help="TensorRT's plugins (default: its own operators in their place)",
    )
    parser.add_argument(
        "--simulated",
        type=int,
        default=0,
        metavar="N",
        help="let the proof ask about N simulated clips too (default 0)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE|BAG",
        help="videos and bags from which int8 takes its scales (default: simulated clips)",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="WORDS",
        help="what is asked about the footage of --calibrate; repeat for more",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="beyond the bounds say where: the first node of each graph that differs",
    )
    parser.add_argument("--json", action="store_true", help="print the proof as JSON")
    add_actions(parser, "export", ACTIONS, required=False)


def run(args: argparse.Namespace) -> int:
    if args.action:
        return int(args.run_action(args))
    if args.out is None:
        raise ConfigError("no --out; expected the engine directory to make")
    if args.simulated < 0:
        raise ConfigError(f"--simulated {args.simulated}; expected a number of clips")
    try:
        from llava_st_ros.export.engine_directory import export_checkpoint
    except ImportError as error:
        raise ConfigError(
            (str(error)) + "; expected the packages of the export",
            "pip install llava_st_ros[export]",
        ) from error
    from llava_st_ros.backends.default_model import default_checkpoint
    from llava_st_ros.export.target import read_target

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clean up
    target = read_target(args.target)
    precision = args.precision or next(iter(target.precisions))
    target.bounds(precision)
    if args.calibrate and precision != "int8":
        raise ConfigError(f"--calibrate for {precision}; expected int8", "leave it out")
    checkpoint = args.checkpoint or default_checkpoint()
    proof = export_checkpoint(
        checkpoint,
        target,
        precision,
        args.out,
        device=args.device,
        plugins=args.plugins,
        questions=_questions(args.calibrate, args.query),
        clips=args.simulated,
        locate=args.bisect,
        on_step=lambda step: print(f"[export] {step}", file=sys.stderr, flush=True),
    )
    if args.json:
        print(json.dumps(proof.values()))
    else:
        for line in proof.lines():
            print(line)
        print(f"{args.out}: {args.target}, {precision}")
    return 0


def _questions(footage: Sequence[Path], words: Sequence[str]) -> Questions:
    """What int8 is calibrated on."""
    from llava_st_ros.export.calibration import FootageQuestions, SimulatedQuestions

    if footage:
        return FootageQuestions(footage, words)
    if words:
        raise ConfigError("--query without --calibrate; expected footage to ask about", "name some")
    return SimulatedQuestions(SIMULATED)
