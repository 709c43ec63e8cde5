"""``llava-st query remove``: end standing queries of a running node."""

from __future__ import annotations

import argparse

from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.errors import QueryError

HELP = "remove standing queries; their tracks and events end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="id of a standing query")
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Remove every query that exists; raise QueryError about the others."""
    problems = []
    with connect(args, "llava-st query remove") as client:
        for query_id in dict.fromkeys(args.ids):
            try:
                client.remove_query(query_id)
            except QueryError as error:
                problems.append(str(error))
    if problems:
        raise QueryError("; ".join(problems))
    return 0
