"""``llava-st eval gate``: exit with 1 if a run's figures are worse than a baseline's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.figure_tables import add_row, grouped, name_of, number, text_table
from llava_st_ros.errors import printable_line

if TYPE_CHECKING:
    from rich.table import Table

    from llava_st_ros.evaluation.gate import GateRow

HELP = "fail (exit code 1) if a run is worse than a baseline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RUN", type=Path, help="folder or results.json to judge")
    parser.add_argument(
        "--baseline",
        type=Path,
        required=True,
        metavar="RESULTS",
        help="folder or results.json that it must not be worse than",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="D",
        help="largest loss of a share or IoU, absolute (default %(default)s)",
    )
    parser.add_argument(
        "--max-increase",
        type=float,
        default=0.1,
        metavar="R",
        help="largest relative loss of a figure with a unit, such as a delay (default %(default)s)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="judge this metric only (m_vIoU, STVG/m_vIoU); may be repeated",
    )
    parser.add_argument(
        "--allow-fewer-cases",
        action="store_true",
        help="accept a run with fewer cases than the baseline",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.cli.outputs import print_tables
    from llava_st_ros.evaluation.gate import GateLimits, gate
    from llava_st_ros.evaluation.results import read_results, without_nan

    limits = GateLimits(args.max_drop, args.max_increase, args.allow_fewer_cases)
    rows = gate(read_results(args.results), read_results(args.baseline), limits, args.metric)
    failed = [row for row in rows if row.failure]
    if args.json:
        values = {"passed": not failed, "rows": [_json(row) for row in rows]}
        print(json.dumps(without_nan(values), indent=1))
    else:
        print_tables(_table(rows))
        for row in rows:
            if row.note:
                print(printable_line(f"{row.row.name}: {row.note}"))
        for row in failed:
            print(printable_line(f"FAILED {row.row.name}: {row.failure}"))
        print(f"{len(rows) - len(failed)} of {len(rows)} figures passed")
    return 1 if failed else 0


def _table(rows: Sequence[GateRow]) -> Table:
    table = text_table("gate", ("figure",), ("baseline", "run", "cases", ""))
    by_row = {id(row.row): row for row in rows}
    for name, group in grouped(row.row for row in rows).items():
        add_row(table, name, style="bold")
        for figure in group:
            row = by_row[id(figure)]
            values = (number(figure.value), number(row.value), str(row.cases))
            add_row(table, name_of(figure), *values, row.verdict)
    return table


def _json(row: GateRow) -> dict[str, Any]:
    return {
        "task": row.row.task,
        "metric": row.row.metric,
        "convention": row.row.convention,
        "unit": row.row.unit,
        "baseline": row.row.value,
        "value": row.value,
        "baseline_cases": row.row.cases,
        "cases": row.cases,
        "passed": not row.failure,
        "failure": row.failure,
        "note": row.note,
    }
