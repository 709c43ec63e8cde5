"""The tasks of a run with their figures and cases, and the order of cases by accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llava_st_ros.evaluation.comparison import cases_of
from llava_st_ros.evaluation.metric_kinds import Metric
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults

FILMS = 3  # best, and worst cases


@dataclass(frozen=True)
class Group:
    """The cases of one task.

    Attributes:
        task: As in ``MetricRow``.
        rows: Its figures.
        cases: The cases of all of its figures.
        primary: The metric by which cases are ordered; None if there is no mean of values.
    """

    task: str
    rows: tuple[MetricRow, ...]
    cases: tuple[Case, ...]
    primary: Metric | None

    @property
    def primary_name(self) -> str:
        """The primary metric's name and convention; empty if there is none."""
        return f"{self.primary.name} ({self.primary.convention})" if self.primary else ""

    def score(self, case: Case) -> float:
        """Return the case's value of the primary metric; NaN if it has none."""
        return case_figure(self.primary, case)


def groups_of(results: RunResults) -> list[Group]:
    """Return the tasks of a run's figures, in their order."""
    groups = []
    for task in dict.fromkeys(row.task for row in results.rows):
        rows = tuple(row for row in results.rows if row.task == task)
        ids: set[str] = set()
        for row in rows:
            metric = row.defined_metric()
            if metric is not None:
                ids |= {case.id for case in cases_of(row, metric, results.cases)}
        cases = tuple(case for case in results.cases if case.id in ids)
        groups.append(Group(task, rows, cases, _primary(rows)))
    return groups


def film_cases(
    groups: Sequence[Group],
) -> tuple[list[tuple[Case, Group]], list[tuple[Case, Group]]]:
    """Return the best and the worst cases of which pictures can be shown.

    Cases are ordered by an IoU; by what else their tasks have only if no task has one.
    """
    scored: dict[str, tuple[float, Case, Group]] = {}
    with_iou = [g for g in groups if g.primary is not None and "iou" in g.primary.key.lower()]
    for group in with_iou or groups:
        for case in group.cases:
            score = group.score(case)
            if case.id not in scored and not math.isnan(score) and _is_shown(case):
                scored[case.id] = score, case, group
    ordered = sorted(scored.values(), key=lambda entry: (-entry[0], entry[1].id))
    count = min(FILMS, (len(ordered) + 1) // 2)
    best, worst = ordered[:count], ordered[count:][-FILMS:]
    return [(c, g) for _, c, g in best], [(c, g) for _, c, g in reversed(worst)]


def case_figure(metric: Metric | None, case: Case) -> float:
    """Return the figure of a single case; NaN if it has none."""
    if metric is None or not metric.applies_to(case):
        return math.nan
    return metric.value([case])


def _primary(rows: Sequence[MetricRow]) -> Metric | None:
    means = [row for row in rows if is_plain_mean(row)]
    for word in ("viou", "iou", ""):
        for row in means:
            if has_key(row, word):
                return row.defined_metric()
    return None


def is_plain_mean(row: MetricRow) -> bool:
    """Return whether a figure is the mean of shares, each of which measures how good a case is."""
    definition = row.definition
    if definition is None or definition.kind != "mean" or row.unit:
        return False
    return definition.above is None and definition.reaching is None


def has_key(row: MetricRow, word: str) -> bool:
    """Return whether a word is part of the key of a figure's values, in any case."""
    return row.definition is not None and word in row.definition.key.lower()


def _is_shown(case: Case) -> bool:
    return any(
        line is not None and (line.boxes or line.spans) for line in (case.expected, case.predicted)
    )
