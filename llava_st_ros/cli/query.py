"""``llava-st query``: the standing queries of a running node."""

from __future__ import annotations

import argparse

from llava_st_ros.cli.actions import add_actions

HELP = "add, remove or list standing queries of a running node"
ACTIONS = ("add", "remove", "list")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, "query", ACTIONS, required=True)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.run_action(args))
