"""A run's figures as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_st_ros.evaluation.results import MetricRow

if TYPE_CHECKING:
    from rich.table import Table


def result_table(rows: Sequence[MetricRow], title: str) -> Table:
    """Return the figures as a rich table; conventions and baselines only where there are any."""
    from rich.table import Table

    conventions = len({row.convention for row in rows}) > 1
    blind = any(row.blind is not None for row in rows)
    table = Table(title=title)
    for name in ("task", "metric", *(("convention",) if conventions else ())):
        table.add_column(name)
    for name in ("value", "95% CI", *(("blind",) if blind else ()), "cases"):
        table.add_column(name, justify="right")
    previous = ""
    for row in rows:
        if previous and previous != row.task:
            table.add_section()
        table.add_row(
            row.task if previous != row.task else "",
            row.metric,
            *((row.convention,) if conventions else ()),
            _number(row.value) + f" {row.unit}" * (bool(row.unit) and not math.isnan(row.value)),
            rf"\[{_number(row.low)}, {_number(row.high)}]",
            *((_number(row.blind),) if blind else ()),
            str(row.cases),
        )
        previous = row.task
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
