"""A run's figures and cases as CSV (RFC 4180), for spreadsheets and scripts.

Numbers have their full precision. A text that a spreadsheet would run as a formula gets an
apostrophe in front, as queries are written by people.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from llava_st_ros.evaluation.results import Case, MetricRow

METRICS_FILE = "metrics.csv"
CASES_FILE = "cases.csv"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
Cell = str | float | int | bool | tuple[float, ...] | None


def metrics_csv(rows: Sequence[MetricRow]) -> str:
    """Return a line for each figure; an undefined one is empty."""
    header = ("task", "metric", "convention", "definition", "unit", "lower_is_better", "value",
              "low", "high", "cases", "blind")  # fmt: skip
    lines: list[Sequence[Cell]] = [
        (
            row.task,
            row.metric,
            row.convention,
            str(row.definition or ""),
            row.unit,
            row.lower_is_better,
            row.value,
            row.low,
            row.high,
            row.cases,
            row.blind,
        )
        for row in rows
    ]
    return _csv([header, *lines])


def cases_csv(cases: Sequence[Case]) -> str:
    """Return a line for each case.

    After the case itself come its values by key, the numerator and denominator of its counts
    ("false_events/numerator") and its samples, separated by spaces.
    """
    values = _keys(case.values for case in cases)
    counts = _keys(case.counts for case in cases)
    samples = _keys(case.samples for case in cases)
    header = (
        *("id", "source", "topic", "task", "query", "problems"),
        *values,
        *(f"{key}/{part}" for key in counts for part in ("numerator", "denominator")),
        *(f"{key}/samples" for key in samples),
    )
    lines: list[Sequence[Cell]] = []
    for case in cases:
        pairs = [case.counts.get(key, (None, None)) for key in counts]
        lines.append(
            (
                *(case.id, case.source, case.topic, case.task, case.query),
                " | ".join(case.problems),
                *(case.values.get(key) for key in values),
                *(number for pair in pairs for number in pair),
                *(case.samples.get(key) for key in samples),
            )
        )
    return _csv([header, *lines])


def _keys(mappings: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _csv(lines: Iterable[Sequence[Cell]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    for line in lines:
        writer.writerow([_cell(value) for value in line])
    return buffer.getvalue()


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return " ".join(map(repr, value))
    text = value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "")
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
