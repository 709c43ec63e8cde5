"""The queries of a command line: --query, --queries and the options that apply to them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_st_ros.errors import ConfigError, QueryError, shown
from llava_st_ros.records import Modality, Query, Task
from llava_st_ros.text.query_parser import entry_values, parse_queries


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="TEXT",
        help="plain words, or a JSON object as in the node's parameter queries; repeatable",
    )
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="FILE",
        help="a JSON or YAML list of queries, or the node's parameter file",
    )
    _add_task_arguments(
        parser, "the queries that name none", "a noun phrase and for --image", "for --query"
    )
    parser.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between evaluations of a query that has no period (default 1)",
    )


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one query for a running node."""
    parser.add_argument(
        "text",
        metavar="TEXT",
        help="plain words, or a JSON object as in the node's parameter queries",
    )
    _add_task_arguments(parser, "the query", "a noun phrase", "with plain words")


def read_question(args: argparse.Namespace, **values: Any) -> tuple[Query, dict[str, Any]]:
    """Return the query of ``add_question_arguments``, and its values as given.

    Args:
        args: The arguments.
        **values: Further values of the query, by key; None for those that were not given.

    Raises:
        ConfigError: An argument is not valid.
        QueryError: The query is not valid.
    """
    given = {"task": args.task, **_inputs(args), **values}
    entry = {key: value for key, value in given.items() if value is not None}
    entry |= entry_values(args.text)
    return parse_question(entry), entry


def parse_question(entry: Mapping[str, Any]) -> Query:
    """Return the query of its values by key, as in the node's parameter queries.

    Raises:
        QueryError: The query is not valid.
    """
    try:
        (query,) = parse_queries([entry], 1.0)
    except QueryError as error:
        raise QueryError(error.problem.removeprefix("entry 1: "), error.remedy) from error
    return query


def _add_task_arguments(
    parser: argparse.ArgumentParser, queries: str, rec: str, condition: str
) -> None:
    parser.add_argument(
        "--task",
        type=str.upper,
        choices=[task.value for task in Task],
        help=f"task of {queries} (default: REC for {rec}, otherwise STVG)",
    )
    parser.add_argument(
        "--span",
        type=float,
        nargs="+",
        metavar="T",
        help=f"input of SVG, TR and ELC {condition}: one or two fractions of the window",
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help=f"input of ELC and REG {condition}: fractions of the image",
    )


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    """The inputs --span and --box as values of a query. Raises ConfigError."""
    inputs: dict[str, Any] = {}
    if args.span:
        if len(args.span) > 2:
            raise ConfigError(f"--span has {len(args.span)} values; expected one or two")
        inputs["span"] = [args.span[0], args.span[-1]]
    if args.box:
        inputs["box"] = list(args.box)
    return inputs


def read_queries(args: argparse.Namespace, *, on_image: bool) -> tuple[list[Query], list[str]]:
    """Return the queries and notes about them.

    Args:
        args: The arguments of ``add_query_arguments``.
        on_image: The footage is a single image.

    Raises:
        ConfigError: There is no query.
        QueryError: A query is not valid, or needs a video and the footage is an image.
    """
    inputs = _inputs(args)
    task = args.task or (Task.REC.value if on_image else None)
    entries = [inputs | entry_values(entry) for entry in args.query]
    places = [f"--query {shown(entry)}" for entry in args.query]
    if args.queries is not None:
        from llava_st_ros.text.query_files import read_query_file

        file = read_query_file(args.queries)
        entries += file.entries
        places += file.places
    if task:
        entries = [{"task": task} | values for values in entries]

    def check(query: Query) -> None:
        if on_image and query.task.modality is not Modality.IMAGE:
            raise QueryError(
                f"task {query.task.value} needs a video; an image supports REC, REG and DGC",
                "use --video, --images or --bag",
            )

    queries = parse_queries(entries, args.period, check, places)
    if not queries:
        raise ConfigError(
            "there is no query",
            "describe what to look for with --query; a task without words is a JSON object, e.g. "
            '--query \'{"task": "DVC"}\'',
        )
    notes = [f"query {q.id!r} ({q.text!r}): {q.note}" for q in queries if q.note]
    notes += [
        f"query {q.id!r}: its cameras are ignored, recorded footage is one camera"
        for q in queries
        if q.cameras
    ]
    return [replace(query, cameras=()) if query.cameras else query for query in queries], notes
