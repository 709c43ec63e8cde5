"""``llava-st train ACTION``; each action is the module ``train_<action>`` of this package."""

from __future__ import annotations

import argparse

from llava_st_ros.cli.actions import add_actions
from llava_st_ros.cli.extras import requires_extra

HELP = (
    "render simulated clips, train, fine-tune, carry runs, merge, average and calibrate checkpoints"
)
ACTIONS = (
    "simulate",
    "plan",
    "run",
    "finetune",
    "merge",
    "average",
    "pack",
    "unpack",
    "calibrate",
    "curves",
    "ablate",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, "train", ACTIONS, required=True)


def run(args: argparse.Namespace) -> int:
    with requires_extra("training"):
        return int(args.run_action(args))
