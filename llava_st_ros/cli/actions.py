"""Actions of subcommands: ``llava-st COMMAND ACTION``.

An action is a module ``<command>_<action>`` of this package. Like a subcommand it has ``HELP``,
``add_arguments(parser)`` and ``run(args) -> exit code``, and imports heavy modules only in ``run``.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def add_actions(
    parser: argparse.ArgumentParser, command: str, names: Sequence[str], *, required: bool
) -> None:
    """Add a command's actions to its parser.

    After parsing, ``args.action`` is the name of the chosen action (None without one) and
    ``args.run_action`` its ``run``.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=required)
    for name in names:
        module = importlib.import_module(f"llava_st_ros.cli.{command}_{name}")
        action = actions.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(action)
        action.set_defaults(run_action=module.run)
