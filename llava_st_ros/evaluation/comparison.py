"""Two runs compared case by case: paired differences of their figures, with intervals.

Both figures of a pair are computed on the cases that both runs have, and the bootstrap draws the
same cases for both. What the cases have in common (a hard recording lowers both figures) therefore
cancels, and the interval is that of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.metric_kinds import Metric, percentile_interval, resamples
from llava_st_ros.evaluation.results import (
    Case,
    MetricRow,
    RunResults,
    cases_by_id,
    without_nan,
)

CHANGES_PER_TASK = 10
# Of five cases, even a change of all in one direction has a probability of 1/16 by chance (sign
# test), while the bootstrap's interval excludes 0 however few the cases are.
MIN_CASES = 6
TOLERANCE = 1e-6  # between a stored figure and the one computed from the stored cases


@dataclass(frozen=True)
class MetricDifference:
    """One figure of both runs on their common cases.

    Attributes:
        task: As in ``MetricRow``, like metric, convention, unit and lower_is_better.
        a: The figure of run A.
        b: The figure of run B.
        difference: b - a.
        low: Lower end of the 95 % paired bootstrap interval of the difference.
        high: Its upper end.
        cases: Number of common cases.
    """

    task: str
    metric: str
    convention: str
    unit: str
    lower_is_better: bool
    a: float
    b: float
    difference: float
    low: float
    high: float
    cases: int

    @property
    def verdict(self) -> str:
        """Return how B compares to A by the interval.

        "better" or "worse" where it excludes 0, "equal" where it is 0, otherwise "unclear"; "too
        few" with fewer than MIN_CASES cases, and "undefined" where one of the figures is.
        """
        if math.isnan(self.difference) or math.isnan(self.low):
            return "undefined"
        if self.low == self.high == 0.0:
            return "equal"
        if self.cases < MIN_CASES:
            return "too few"
        if self.low <= 0.0 <= self.high:
            return "unclear"
        return "better" if (self.low > 0.0) != self.lower_is_better else "worse"


@dataclass(frozen=True)
class CaseChange:
    """A case whose value differs between the runs; ``metric`` is the mean that it is part of."""

    id: str
    task: str
    source: str
    query: str
    metric: str
    convention: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """Two runs compared.

    Attributes:
        differences: The figures, in the order of run A.
        changes: The cases that changed most, by task.
        common: Number of compared cases.
        only_a: Ids of the cases that only run A has.
        only_b: Ids of the cases that only run B has.
        other_truth: Ids of cases whose query or annotations differ; they are not compared.
        not_compared: Figures that cannot be compared, with the reason, one line each.
        settings: What ran differently: name, value in A and value in B.
    """

    differences: tuple[MetricDifference, ...]
    changes: tuple[CaseChange, ...]
    common: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_truth: tuple[str, ...]
    not_compared: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]


def compare(a: RunResults, b: RunResults, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Compare two runs on the cases that both have, with the same query and annotations.

    Args:
        a: The run to compare with.
        b: The run that is judged.
        names: What the runs are called in errors.

    Raises:
        DataError: A run has two cases of one id, or no case can be compared.
    """
    cases_a, cases_b = (cases_by_id(run, name) for run, name in zip((a, b), names))
    shared = [name for name in cases_a if name in cases_b]
    other_truth = tuple(name for name in shared if not has_same_truth(cases_a[name], cases_b[name]))
    common = [name for name in shared if name not in set(other_truth)]
    if not common:
        raise DataError(
            f"no case of {names[0]} and {names[1]} can be compared: {len(shared)} of "
            f"{len(cases_a)} and {len(cases_b)} cases have the same id, and of these "
            f"{len(other_truth)} have other annotations or another query",
            "evaluate both on the same data",
        )
    pairs = [(cases_a[name], cases_b[name]) for name in common]
    differences, not_compared = [], []
    rows_b = {row.key: row for row in b.rows}
    for row in a.rows:
        problem = _obstacle(row, rows_b.get(row.key), a, b)
        found = None if problem else _difference(row, pairs)
        if found is None:
            reason = problem or "no common case has its values"
            not_compared.append(f"{row.name}: {reason}")
        else:
            differences.append(found)
    keys_a = {row.key for row in a.rows}
    not_compared += [
        f"{row.name}: {_absence(row, a, 'A')}" for row in b.rows if row.key not in keys_a
    ]
    return Comparison(
        tuple(differences),
        tuple(_changes(a.rows, pairs)),
        len(common),
        tuple(name for name in cases_a if name not in cases_b),
        tuple(name for name in cases_b if name not in cases_a),
        other_truth,
        tuple(not_compared),
        tuple(_settings(a.about, b.about)),
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values; NaN is None."""
    plain = asdict(comparison)
    for values, difference in zip(plain["differences"], comparison.differences):
        values["verdict"] = difference.verdict
    for values, change in zip(plain["changes"], comparison.changes):
        values["difference"] = change.difference
    return without_nan(plain)


def paired_interval(
    metric: Metric, a: Sequence[Case], b: Sequence[Case], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of metric(b) - metric(a); NaN if it is undefined.

    Args:
        metric: Applies to every case.
        a: The cases of one run.
        b: The same cases of the other run, in the same order; each resample draws the same ones.
        seed: Seed of the resampling.
    """
    differences = np.concatenate(
        [
            metric.of_resamples(b, indices) - metric.of_resamples(a, indices)
            for indices in resamples(len(a), seed)
        ]
    )
    return percentile_interval(differences)


def has_same_truth(a: Case, b: Case) -> bool:
    """Return whether two cases ask the same and have the same ground truth."""
    return (a.task, a.query, a.topic, a.expected) == (b.task, b.query, b.topic, b.expected)


def cases_of(row: MetricRow, metric: Metric, cases: Iterable[Case]) -> list[Case]:
    """Return the cases that a row is computed from.

    These are the cases of its task to which the metric applies; all to which it applies where no
    case has the row's name as its task ("stream").
    """
    applicable = [case for case in cases if metric.applies_to(case)]
    return [case for case in applicable if case.task == row.task] or applicable


def _obstacle(row: MetricRow, other: MetricRow | None, a: RunResults, b: RunResults) -> str:
    """Why a figure cannot be compared; "" if it can."""
    if other is None:
        return _absence(row, b, "B")
    metric = row.defined_metric()
    if metric is None or other.definition is None:
        return "the file does not say how it is computed"
    if row.definition != other.definition:
        return f"it is the {row.definition} in A, but the {other.definition} in B"
    for name, run, stored in (("A", a, row), ("B", b, other)):
        cases = cases_of(row, metric, run.cases)
        if not cases or not _is_close(metric.value(cases), stored.value):
            return f"the figure of {name} does not follow from the cases in its file"
    return ""


def _absence(row: MetricRow, other: RunResults, name: str) -> str:
    conventions = sorted(
        {r.convention for r in other.rows if (r.task, r.metric) == (row.task, row.metric)}
    )
    if conventions and row.convention not in conventions:
        return f"{name} has it by another convention only: {', '.join(conventions)}"
    return f"{name} has no such figure"


def _is_close(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, abs_tol=TOLERANCE)


def _difference(row: MetricRow, pairs: Sequence[tuple[Case, Case]]) -> MetricDifference | None:
    metric = row.defined_metric()
    assert metric is not None
    chosen = {case.id for case in cases_of(row, metric, [a for a, _ in pairs])}
    both = [(a, b) for a, b in pairs if a.id in chosen and metric.applies_to(b)]
    if not both:
        return None
    cases_a, cases_b = [a for a, _ in both], [b for _, b in both]
    value_a, value_b = metric.value(cases_a), metric.value(cases_b)
    low, high = paired_interval(metric, cases_a, cases_b)
    return MetricDifference(
        row.task,
        row.metric,
        row.convention,
        row.unit,
        row.lower_is_better,
        value_a,
        value_b,
        value_b - value_a,
        low,
        high,
        len(both),
    )


def _changes(rows: Sequence[MetricRow], pairs: Sequence[tuple[Case, Case]]) -> Iterator[CaseChange]:
    """The largest changes of each task's first mean."""
    tasks: set[str] = set()
    for row in rows:
        definition = row.definition
        if row.task in tasks or definition is None or definition.kind != "mean":
            continue
        tasks.add(row.task)
        metric, key = row.defined_metric(), definition.key
        assert metric is not None
        chosen = {case.id for case in cases_of(row, metric, [a for a, _ in pairs])}
        changes = [
            CaseChange(
                a.id,
                row.task,
                a.source,
                a.query,
                key,
                row.convention,
                a.values[key],
                b.values[key],
            )
            for a, b in pairs
            if a.id in chosen and key in b.values and a.values[key] != b.values[key]
        ]
        changes.sort(key=lambda change: (-abs(change.difference), change.id))
        yield from changes[:CHANGES_PER_TASK]


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    flat_a, flat_b = flattened(a), flattened(b)
    for name in (*flat_a, *(name for name in flat_b if name not in flat_a)):
        if flat_a.get(name) != flat_b.get(name):
            yield name, flat_a.get(name, "-"), flat_b.get(name, "-")


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested plain values as text by dotted name.

    >>> flattened({"model": "tiny", "versions": {"numpy": "2"}, "topics": ["/a", "/b"]})
    {'model': 'tiny', 'versions.numpy': '2', 'topics': '/a, /b'}
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{name}"] = ", ".join(str(item) for item in value)
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
