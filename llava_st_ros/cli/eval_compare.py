"""``llava-st eval compare``: paired differences between two runs, with intervals."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    from llava_st_ros.cli.extras import requires_extra
    from llava_st_ros.cli.outputs import check_files, check_is_no_input, print_tables
    from llava_st_ros.evaluation.comparison import compare, comparison_json
    from llava_st_ros.evaluation.results import read_results

    check_is_no_input(args.out, args.a, args.b)
    check_files(args.out)
    a, b = read_results(args.a), read_results(args.b)
    comparison = compare(a, b, (str(args.a), str(args.b)))
    if args.out is not None:
        from llava_st_ros.evaluation.report_page.comparison_page import write_comparison

        with requires_extra("evaluation"):
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
    differences = _table(
        f"B - A on {comparison.common} common cases",
        ("figure", "convention"),
        ("A", "B", "B - A", "95% CI", "B is"),
    )
    for d in comparison.differences:
        _add(
            differences,
            f"{d.task} {d.metric}" + (f" [{d.unit}]" if d.unit else ""),
            d.convention,
            _number(d.a),
            _number(d.b),
            _signed(d.difference),
            f"{_signed(d.low)}, {_signed(d.high)}",
            d.verdict,
        )
    tables = [differences]
    if comparison.changes:
        changes = _table("cases that changed most", ("case", "query"), ("A", "B", "B - A"))
        for c in comparison.changes:
            _add(
                changes,
                c.id,
                c.query[:MAX_QUERY],
                _number(c.a),
                _number(c.b),
                _signed(c.difference),
            )
        tables.append(changes)
    return tables


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold", no_wrap=name == "convention")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, *texts: str) -> None:
    from rich.text import Text

    # A query's words are no markup, and may contain what a terminal acts on.
    table.add_row(*(Text(printable_line(text)) for text in texts))


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


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3g}"
