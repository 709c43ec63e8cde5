"""``llava-st query list``: the standing queries of a running node."""

from __future__ import annotations

import argparse
import json

from llava_st_ros.cli.figure_tables import add_row, text_table
from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.cli.outputs import print_tables

HELP = "list the standing queries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON line for each query")
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """List the queries in the order in which they were added."""
    with connect(args, "llava-st query list") as client:
        queries = client.list_queries()
        target = client.target
    if args.json:
        for query in queries:
            print(json.dumps(query))
        return 0
    if not queries:
        print(f"{target} has no standing queries")
        return 0
    table = text_table(f"standing queries of {target}", ("id", "text", "task", "cameras"), ("s",))
    for query in queries:
        cameras = ", ".join(query["cameras"]) or "all"
        add_row(table, query["id"], query["text"], query["task"], cameras, f"{query['period']:g}")
    print_tables(table)
    return 0
