"""``llava-st query add``: a standing query for a running node."""

from __future__ import annotations

import argparse
import sys

from llava_st_ros.cli.node_arguments import add_node_arguments, connect
from llava_st_ros.cli.query_arguments import add_question_arguments, read_question

HELP = "add a standing query, and print its id"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_question_arguments(parser)
    parser.add_argument(
        "--id", help="its id; the query that has it is replaced (default: the node chooses one)"
    )
    parser.add_argument(
        "--camera",
        action="append",
        metavar="NAME",
        help="evaluate it on this camera only; repeatable (default: all)",
    )
    parser.add_argument(
        "--period",
        type=float,
        metavar="S",
        help="seconds between evaluations (default: the node's default_period)",
    )
    parser.add_argument(
        "--expiry", type=float, metavar="S", help="remove it after this many seconds"
    )
    add_node_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Add the query."""
    query, given = read_question(
        args, id=args.id, cameras=args.camera, period=args.period, expiry=args.expiry
    )
    if query.note:
        print(query.note, file=sys.stderr)
    with connect(args, "llava-st query add") as client:
        query_id, note = client.add_query(
            query, query_id=given.get("id") or "", period=given.get("period") or 0.0
        )
    print(query_id)
    if note and note != query.note:
        print(note, file=sys.stderr)
    return 0
