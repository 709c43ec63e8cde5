"""``llava-st train ACTION``: an action is a module ``train_<action>`` of this package.

Like a subcommand it has ``HELP``, ``add_arguments(parser)`` and ``run(args) -> exit code``, and
imports what is heavy only when it runs.
"""

from __future__ import annotations

import argparse
import importlib

HELP = "render simulated clips, train a checkpoint on them"
ACTIONS = ("simulate", "run", "finetune", "merge", "curves", "ablate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name in ACTIONS:
        module = importlib.import_module(f"llava_st_ros.cli.train_{name}")
        action = actions.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(action)
        action.set_defaults(run_action=module.run)


def run(args: argparse.Namespace) -> int:
    return int(args.run_action(args))
