"""``llava-st eval compare``: paired differences between two runs, with intervals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from llava_st_ros.cli.figure_tables import (
    add_row,
    grouped,
    name_of,
    number,
    signed,
    text_table,
)
from llava_st_ros.errors import printable_line

if TYPE_CHECKING:
    from rich.table import Table

    from llava_st_ros.evaluation.comparison import Comparison

HELP = "compare two runs case by case"
MAX_LISTED = 5  # ids in a line
MAX_QUERY = 80  # characters in a table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", type=Path, help="folder or results.json to compare with")
    parser.add_argument("b", metavar="B", type=Path, help="folder or results.json that is judged")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="write the comparison as HTML"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import check_files, check_is_no_input, print_tables
    from llava_st_ros.evaluation.comparison import compare, comparison_json
    from llava_st_ros.evaluation.results import read_results

    check_is_no_input(args.out, args.a, args.b)
    check_files(args.out)
    a, b = read_results(args.a), read_results(args.b)
    comparison = compare(a, b, (str(args.a), str(args.b)))
    if args.out is not None:
        from llava_st_ros.evaluation.report_page.comparison_page import write_comparison

        write_comparison(args.out, comparison, a, b, (str(args.a), str(args.b)))
    if args.json:
        print(json.dumps(comparison_json(comparison), indent=1, allow_nan=False))
        return 0
    print_tables(*_tables(comparison))
    for line in _notes(comparison):
        print(line)
    if args.out is not None:
        print(f"written to {args.out}")
    return 0


def _tables(comparison: Comparison) -> list[Table]:
    title = f"B - A on {comparison.common} common cases"
    differences = text_table(title, ("figure",), ("A", "B", "B - A", "95% CI", "B is"))
    for name, group in grouped(comparison.differences).items():
        add_row(differences, name, style="bold")
        for d in group:
            interval = f"{signed(d.low)}, {signed(d.high)}"
            values = (number(d.a), number(d.b), signed(d.difference), interval)
            add_row(differences, name_of(d), *values, d.verdict)
    tables = [differences]
    if comparison.changes:
        title = "cases that changed most"
        changes = text_table(title, ("case", "query"), ("A", "B", "B - A"))
        for c in comparison.changes:
            figures = (number(c.a), number(c.b), signed(c.difference))
            add_row(changes, c.id, c.query[:MAX_QUERY], *figures)
        tables.append(changes)
    return tables


def _notes(comparison: Comparison) -> list[str]:
    lists = (
        ("only in A", comparison.only_a),
        ("only in B", comparison.only_b),
        ("not compared, other annotations or another query", comparison.other_truth),
    )
    notes = [
        f"{len(ids)} cases {words}: {', '.join(map(repr, ids[:MAX_LISTED]))}"
        + (", ..." if len(ids) > MAX_LISTED else "")
        for words, ids in lists
        if ids
    ]
    notes += [f"not compared: {line}" for line in comparison.not_compared]
    notes += [f"{name}: {a} in A, {b} in B" for name, a, b in comparison.settings]
    return [printable_line(note) for note in notes]
