"""``llava-st eval compare``: paired differences between two runs, with intervals."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from llava_st_ros.evaluation.comparison import Comparison

HELP = "compare two runs case by case"
MAX_LISTED = 5  # ids in a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", type=Path, help="folder or results.json to compare with")
    parser.add_argument("b", metavar="B", type=Path, help="folder or results.json that is judged")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="write the comparison as HTML"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.evaluation.comparison import compare, comparison_json
    from llava_st_ros.evaluation.results import read_results

    a, b = read_results(args.a), read_results(args.b)
    comparison = compare(a, b, (str(args.a), str(args.b)))
    if args.json:
        print(json.dumps(comparison_json(comparison), indent=1, allow_nan=False))
        return 0
    print_tables(*_tables(comparison))
    for line in _notes(comparison):
        print(line)
    return 0


def _tables(comparison: Comparison) -> list[Table]:
    differences = _table(
        f"B - A on {comparison.common} common cases",
        ("task", "metric", "convention"),
        ("A", "B", "B - A", "95% CI", "cases"),
        "",
    )
    for d in comparison.differences:
        _add(
            differences,
            d.task,
            d.metric,
            d.convention,
            _number(d.a, d.unit),
            _number(d.b, d.unit),
            _signed(d.difference),
            f"[{_signed(d.low)}, {_signed(d.high)}]",
            str(d.cases),
            d.verdict,
        )
    tables = [differences]
    if comparison.changes:
        changes = _table("cases that changed most", ("case", "value"), ("A", "B", "B - A"), "query")
        for c in comparison.changes:
            texts = (c.id, c.metric, _number(c.a), _number(c.b), _signed(c.difference), c.query)
            _add(changes, *texts)
        tables.append(changes)
    return tables


def _table(title: str, left: Sequence[str], right: Sequence[str], last: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    table.add_column(last)
    return table


def _add(table: Table, *texts: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(text) for text in texts))  # a query's words are no markup


def _notes(comparison: Comparison) -> list[str]:
    lists = (
        ("only in A", comparison.only_a),
        ("only in B", comparison.only_b),
        ("not compared, other annotations or another query", comparison.other_truth),
    )
    notes = [
        f"{len(ids)} cases {words}: {', '.join(map(ascii, ids[:MAX_LISTED]))}"
        + (", ..." if len(ids) > MAX_LISTED else "")
        for words, ids in lists
        if ids
    ]
    notes += [f"not compared: {line}" for line in comparison.not_compared]
    return [
        *notes,
        *(f"{name}: {a} in A, {b} in B" for name, a, b in comparison.settings),
    ]


def _number(value: float, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:.4g} {unit}".strip()


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4g}"
