"""``llava-st eval ACTION``; each action is the module ``eval_<action>`` of this package."""

from __future__ import annotations

import argparse

from llava_st_ros.cli.actions import add_actions

HELP = "measure accuracy, timeliness and latency on bags, benchmarks, simulated clips and streams"
ACTIONS = (
    "annotate",
    "bag",
    "explain",
    "benchmark",
    "simulated",
    "streams",
    "convert",
    "compare",
    "gate",
    "report",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, "eval", ACTIONS, required=True)


def run(args: argparse.Namespace) -> int:
    return int(args.run_action(args))
