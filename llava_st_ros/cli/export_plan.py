"""``llava-st export plan``: estimate memory and run times from a model's geometry."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.export_flags import add_shared_flags
from llava_st_ros.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from llava_st_ros.config import ModelConfig
    from llava_st_ros.export.plan import ResourcePlan

HELP = "estimate a model's memory and lower bounds of its run time on each board"
PUBLISHED = "llava-st-qwen2-7b"
GIB, MIB = 2**30, 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=PUBLISHED,
        metavar="DIR|CONFIG.json",
        help="checkpoint folder or config.json; no weights are needed "
        f"(default: {PUBLISHED}, the published model)",
    )
    add_shared_flags(
        parser,
        {
            "--target": "show only the boards of this target, if it names any",
            "--precision": "precision of the engine (default: float16)",
            "--json": "print one JSON object",
        },
        action=True,
    )


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.export.plan import read_boards
    from llava_st_ros.export.target import read_target

    target = read_target(args.target)
    plan = _plan(args.model, args.precision or "float16")
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
        "stages": [vars(cost) for cost in plan.costs],
        "boards": {
            board.name: {
                "memory": board.memory * GIB,
                "fits": plan.fits(board),
                "seconds": {cost.name: cost.min_seconds(board) for cost in plan.costs},
            }
            for board in read_boards()
            if not target.boards or board.name in target.boards
        },
    }
    if args.json:
        print(json.dumps(report))
        return 0
    print("\n".join(_lines(plan, report)))
    if not report["offered"]:
        offers = ", ".join(target.precisions)
        print(f"\n{target.name} does not offer {plan.precision}; it offers {offers}")
    return 0


def _plan(model: str, precision: str) -> ResourcePlan:
    from llava_st_ros.export.plan import has_stored_plan, stored_plan

    if not Path(model).exists() and has_stored_plan(model):
        return stored_plan(model, precision)
    geometry = _geometry(model)  # before torch is imported: a wrong path needs no package
    from llava_st_ros.export.plan_counts import make_plan

    return make_plan(geometry, precision)


def _geometry(model: str) -> ModelConfig:
    from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
    from llava_st_ros.export.plan import GEOMETRIES
    from llava_st_ros.text.tokenizer import Tokenizer

    path = Path(model)
    if not path.exists() and (GEOMETRIES / f"{model}.json").is_file():
        path = GEOMETRIES / f"{model}.json"
    if path.is_dir():
        path = path / "config.json"
    if path.suffix != ".json":
        raise ConfigError(
            f"no model {model}; expected a checkpoint folder, a config.json or {PUBLISHED}"
        )
    values = read_checkpoint_json(path)
    if "vocab_size" not in values:
        raise CheckpointError(
            f"{path} has no vocab_size", "pass the config.json of a LLaVA-ST checkpoint"
        )
    # The ids of structural tokens are in the tokenizer, not in a published config.json.
    tokenizer = Tokenizer.load_optional(path.parent)
    return read_config(values, {}, tokenizer.special if tokenizer else None)


def _lines(plan: ResourcePlan, report: dict[str, Any]) -> list[str]:
    weights = ", ".join(f"{name} {size / MIB:.1f}" for name, size in plan.weights.items())
    lines = [
        f"{report['model']}, {plan.precision}, MiB",
        f"  weights   {sum(plan.weights.values()) / MIB:10.1f}   ({weights})",
        f"  KV cache  {plan.cache / MIB:10.1f}   ({plan.positions} positions)",
        f"  frames    {plan.frames / MIB:10.1f}   (frame pool)",
        f"  working   {plan.working / MIB:10.1f}   (largest operation)",
        f"  running   {plan.running / MIB:10.1f}",
        f"  building  {plan.building / MIB:10.1f}   (estimated peak)",
        "",
        "lower bound of the run time (roofline: arithmetic and memory traffic), ms",
        " " * 16 + "".join(f"{cost.name:>16}" for cost in plan.costs),
    ]
    for name, board in report["boards"].items():
        times = "".join(f"{1000 * seconds:16.1f}" for seconds in board["seconds"].values())
        lines.append(f"{name:16}{times}   {'fits' if board['fits'] else 'DOES NOT FIT'}")
    return lines
