"""``llava-st export plan``: will it fit, and how fast could it be? From the geometry alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from llava_st_ros.config import ModelConfig
    from llava_st_ros.export.plan import Plan

HELP = "memory and least times of a model on each board, before anything is built"
OFFICIAL = "llava-st-qwen2-7b"
GIB, MIB = 2**30, 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=OFFICIAL,
        metavar="DIR|CONFIG.json",
        help=f"a checkpoint's folder or config.json; its weights need not be there "
        f"(default: {OFFICIAL}, the published model)",
    )
    parser.add_argument(
        "--target", default=argparse.SUPPRESS, help="show its boards alone, where it names some"
    )
    parser.add_argument(
        "--precision", default=argparse.SUPPRESS, help="of the network (default float16)"
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.export.plan import boards, make_plan
    from llava_st_ros.export.target import read_target

    target = read_target(args.target)
    plan = make_plan(_geometry(args.model), args.precision or "float16")
    report = {
        "model": args.model,
        "precision": plan.precision,
        "offered": not target.boards or plan.precision in target.precisions,
        "weights": dict(plan.weights),
        "cache": plan.cache,
        "positions": plan.positions,
        "frames": plan.frames,
        "running": plan.running,
        "building": plan.building,
        "stages": [vars(stage) for stage in plan.stages],
        "boards": {
            board.name: {
                "memory": board.memory * GIB,
                "fits": plan.fits(board),
                "seconds": {stage.name: stage.seconds(board) for stage in plan.stages},
            }
            for board in boards()
            if not target.boards or board.name in target.boards
        },
    }
    if args.json:
        print(json.dumps(report))
        return 0
    print("\n".join(_lines(plan, report)))
    if not report["offered"]:
        offers = ", ".join(target.precisions)
        print(f"\n{target.name} does not offer {plan.precision}: export makes {offers} for it")
    return 0


def _geometry(model: str) -> ModelConfig:
    from llava_st_ros.checkpoint_config import read_config, read_json
    from llava_st_ros.export.plan import GEOMETRIES
    from llava_st_ros.text.tokenizer import Tokenizer

    path = Path(model)
    if not path.exists() and (GEOMETRIES / f"{model}.json").is_file():
        path = GEOMETRIES / f"{model}.json"
    if path.is_dir():
        path = path / "config.json"
    if path.suffix != ".json":
        raise ConfigError(f"no {model}; expected a folder, a config.json or {OFFICIAL}")
    values = read_json(path)
    if "vocab_size" not in values:
        raise CheckpointError(f"{path}: no vocab_size; expected the sizes of a checkpoint")
    # A published config.json has no structural tokens' ids: they are the tokenizer's.
    tokenizer = Tokenizer.load_if_any(path.parent)
    return read_config(values, {}, tokenizer.special if tokenizer else None)


def _lines(plan: Plan, report: dict[str, Any]) -> list[str]:
    weights = ", ".join(f"{name} {size / MIB:.1f}" for name, size in plan.weights.items())
    lines = [
        f"{report['model']}, {plan.precision}, MiB",
        f"  weights   {sum(plan.weights.values()) / MIB:10.1f}   ({weights})",
        f"  KV cache  {plan.cache / MIB:10.1f}   ({plan.positions} positions)",
        f"  frames    {plan.frames / MIB:10.1f}   (features kept)",
        f"  working   {max(s.working for s in plan.stages) / MIB:10.1f}   (largest operation)",
        f"  running   {plan.running / MIB:10.1f}",
        f"  building  {plan.building / MIB:10.1f}   (estimate)",
        "",
        "least time by arithmetic and by memory traffic, ms",
        " " * 16 + "".join(f"{stage.name:>16}" for stage in plan.stages),
    ]
    for name, board in report["boards"].items():
        times = "".join(f"{1000 * seconds:16.1f}" for seconds in board["seconds"].values())
        lines.append(f"{name:16}{times}   {'fits' if board['fits'] else 'DOES NOT FIT'}")
    return lines
