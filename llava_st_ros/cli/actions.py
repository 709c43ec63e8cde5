"""Subcommands that have actions of their own: ``llava-st COMMAND ACTION``.

An action is a module ``<command>_<action>`` of this package. Like a subcommand it has ``HELP``,
``add_arguments(parser)`` and a function of its arguments that gives the exit code, and imports what
is heavy only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def add_actions(
    parser: argparse.ArgumentParser, command: str, names: Sequence[str], *, required: bool
) -> None:
    """Let ``parser`` take one of the actions: then ``args.action`` is its name (else None) and
    ``args.run_action`` what runs it."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=required)
    for name in names:
        module = importlib.import_module(f"llava_st_ros.cli.{command}_{name}")
        action = actions.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(action)
        action.set_defaults(run_action=module.run)
