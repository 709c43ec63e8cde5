"""Reports of scored cases: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llava_st_ros.evaluation.metrics import bootstrap_interval, mean
from llava_st_ros.evaluation.scoring import METRICS, Values

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class MetricRow:
    """One metric of a report.

    Attributes:
        task: The category (``scoring.category``).
        metric: The metric's published name.
        value: Mean over the cases.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        cases: Number of cases.
        blind: Value of the blind baseline, if it was run.
    """

    task: str
    metric: str
    value: float
    low: float
    high: float
    cases: int
    blind: float | None = None


def summarize(
    scores: Mapping[str, Sequence[Values]],
    blind: Mapping[str, Sequence[Values]] | None = None,
) -> list[MetricRow]:
    """Return the rows of every category that has cases, in the order of METRICS.

    Args:
        scores: The cases' values, by category.
        blind: Those of the blind baseline, by category.
    """
    rows = []
    for task, metrics in METRICS.items():
        if not scores.get(task):
            continue
        for metric in metrics:
            values = [metric.value(case[metric.key]) for case in scores[task]]
            baseline = None
            if blind is not None and blind.get(task):
                baseline = mean([metric.value(case[metric.key]) for case in blind[task]])
            low, high = bootstrap_interval(values)
            rows.append(
                MetricRow(task, metric.name, mean(values), low, high, len(values), baseline)
            )
    return rows


def report_as_json(rows: Sequence[MetricRow], **about: Any) -> dict[str, Any]:
    """Return the report as plain values: ``about`` (model, split, ...) and a list ``metrics``."""
    return {**about, "metrics": [asdict(row) for row in rows]}


def report_as_table(rows: Sequence[MetricRow], title: str) -> Table:
    """Return the report as a rich table."""
    from rich.table import Table

    table = Table(title=title)
    for name in ("task", "metric"):
        table.add_column(name)
    for name in ("value", "95% CI", "blind", "cases"):
        table.add_column(name, justify="right")
    previous = ""
    for row in rows:
        if previous and previous != row.task:
            table.add_section()
        table.add_row(
            row.task if previous != row.task else "",
            row.metric,
            f"{row.value:.3f}",
            f"[{row.low:.3f}, {row.high:.3f}]".replace("[", r"\["),
            "-" if row.blind is None else f"{row.blind:.3f}",
            str(row.cases),
        )
        previous = row.task
    return table
