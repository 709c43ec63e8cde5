"""``llava-st export``: export a checkpoint to an engine directory, or run an action.

``llava-st export --checkpoint DIR --target T --out DIR`` exports. ``llava-st export ACTION`` runs
an action, a module ``export_<action>`` of this package.
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
from llava_st_ros.cli.export_flags import add_shared_flags
from llava_st_ros.cli.extras import requires_extra
from llava_st_ros.errors import ConfigError

if TYPE_CHECKING:
    from llava_st_ros.export.calibration import CalibrationQueries

HELP = "export a checkpoint to an engine directory, and check engine directories"
ACTIONS = ("verify", "inspect", "plan")
CALIBRATION_CLIPS = 16  # simulated clips that int8 is calibrated on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoint to export (default: llava-st-tiny)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="engine directory to write")
    parser.add_argument(
        "--plugins",
        type=Path,
        metavar="LIBRARY.so",
        help="TensorRT plugin library for the packer (default: TensorRT's own operators)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE|BAG",
        help="videos and bags to calibrate int8 on (default: simulated clips)",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="WORDS",
        help="query to run on the footage of --calibrate; may be repeated",
    )
    parser.add_argument(
        "--topic", help="image topic of the bags of --calibrate (default: the only one)"
    )
    add_shared_flags(
        parser,
        {
            "--target": "kind of machine to export for (default: cpu)",
            "--precision": "precision of the engine (default: the target's first)",
            "--device": "device that runs the proof (default: the target's)",
            "--simulated": "number of simulated clips that the proof answers as well (default: 0)",
            "--first-divergence": "if the proof fails, name the first node of each graph that "
            "differs",
            "--json": "print the proof as JSON",
        },
    )
    add_actions(parser, "export", ACTIONS, required=False)


def run(args: argparse.Namespace) -> int:
    with requires_extra("export"):
        return int(args.run_action(args)) if args.action else _export(args)


def _export(args: argparse.Namespace) -> int:
    if args.out is None:
        raise ConfigError("--out is missing", "name the engine directory to write")
    if args.simulated < 0:
        raise ConfigError(f"--simulated is {args.simulated}; expected a number of clips")
    from llava_st_ros.backends.default_model import default_checkpoint
    from llava_st_ros.cli.outputs import check_folders
    from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
    from llava_st_ros.export.target import read_target

    # Exit by an exception, so that the partial engine directory is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    target = read_target(args.target)
    check_folders(args.out.parent)
    if args.out.is_file():
        raise ConfigError(f"--out is the file {args.out}; expected a folder")
    precision = args.precision or next(iter(target.precisions))
    bounds = target.bounds(precision)
    if args.calibrate and precision != "int8":
        raise ConfigError(f"--calibrate is for int8, but the precision is {precision}")
    request = ExportRequest(
        args.checkpoint or default_checkpoint(),
        target,
        precision,
        args.out,
        device=args.device,
        plugins=args.plugins,
        calibration=_calibration(args.calibrate, args.query, args.topic),
        simulated_clips=args.simulated,
        find_divergence=args.first_divergence,
    )
    proof = export_checkpoint(
        request, lambda step: print(f"[export] {step}", file=sys.stderr, flush=True)
    )
    if args.json:
        print(json.dumps(proof.as_dict()))
    else:
        for line in proof.summary_lines(bounds):
            print(line)
        print(f"{args.out}: {args.target}, {precision}")
    return 0


def _calibration(
    footage: Sequence[Path], texts: Sequence[str], topic: str | None
) -> CalibrationQueries:
    from llava_st_ros.export.calibration import FootageQueries, SimulatedQueries

    if footage:
        return FootageQueries(
            footage, texts, topic, lambda note: print(f"[export] {note}", file=sys.stderr)
        )
    for flag, value in (("--query", texts), ("--topic", topic)):
        if value:
            raise ConfigError(f"{flag} requires --calibrate", "name the footage of the queries")
    return SimulatedQueries(CALIBRATION_CLIPS)
