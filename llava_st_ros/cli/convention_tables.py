"""Figures of several scoring conventions in columns, and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_st_ros.cli.figure_tables import add_row, name_of, number, text_table
from llava_st_ros.evaluation.conventions.records import Convention
from llava_st_ros.evaluation.report_page.convention_lines import convention_lines
from llava_st_ros.evaluation.result_table import result_table
from llava_st_ros.evaluation.results import MetricRow

if TYPE_CHECKING:
    from rich.table import Table


def convention_tables(
    rows: Sequence[MetricRow], conventions: Sequence[Convention], title: str
) -> list[Table]:
    """Return the tables for the terminal: of one convention with intervals, of several in columns.

    Args:
        rows: The figures.
        conventions: The conventions that were requested; those without figures are left out.
        title: The title.
    """
    used = [c for c in conventions if any(row.convention == c.name for row in rows)]
    if len(used) == 1:
        return [result_table(rows, f"{title}; convention: {used[0].name}")]
    columns = convention_lines(rows)  # those of captions, too
    figures = text_table(title, ("task", "metric"), [name for name, _ in columns])
    values = {(row.task, row.metric, row.convention): row.value for row in rows}
    previous = ""
    for task, metric, label in dict.fromkeys((row.task, row.metric, name_of(row)) for row in rows):
        cells = [values.get((task, metric, name)) for name, _ in columns]
        shown = ("" if value is None else number(value) for value in cells)
        add_row(figures, task if task != previous else "", label, *shown)
        previous = task
    differences = text_table("what differs", ("convention", "frames, ends, missing, threshold"), ())
    for name, differs in columns:
        add_row(differences, name, differs)
    return [figures, differences]
