"""The gate of a CI: which figures of a run are worse than a baseline's by more than is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.comparison import has_same_truth
from llava_st_ros.evaluation.results import MetricRow, RunResults, cases_by_id

ROUNDING = 1e-9  # a drop from 0.5 to 0.49 is one of 0.01, whatever binary fractions make of it


@dataclass(frozen=True)
class GateLimits:
    """What a run may lose.

    Attributes:
        max_drop: Largest loss of a share or an IoU (a figure without a unit), absolute.
        max_increase: Largest relative loss of a figure with a unit: 0.1 lets a delay of 2 s grow
            to 2.2 s, and a rate of which more is better fall by a tenth.
        fewer_cases: Whether a run may have fewer cases than the baseline.

    Raises:
        ConfigError: A limit is negative or not a number.
    """

    max_drop: float = 0.01
    max_increase: float = 0.1
    fewer_cases: bool = False

    def __post_init__(self) -> None:
        for name in ("max_drop", "max_increase"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}; expected a number that is not negative"
                )


@dataclass(frozen=True)
class GateRow:
    """One figure at the gate.

    Attributes:
        row: The baseline's figure.
        value: The run's figure; NaN if it is undefined or missing.
        cases: Its number of cases.
        failure: Why it fails; "" if it passes.
        note: What else is to be known about it.
    """

    row: MetricRow
    value: float
    cases: int
    failure: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return "FAILED" or "passed"."""
        return "FAILED" if self.failure else "passed"


def gate(
    run: RunResults, baseline: RunResults, limits: GateLimits, metrics: Sequence[str] = ()
) -> list[GateRow]:
    """Judge every figure of a baseline.

    Args:
        run: The run to judge.
        baseline: The run that it must not be worse than.
        limits: What it may lose.
        metrics: Names of the metrics to judge ("m_vIoU" or "STVG/m_vIoU"); all by default.

    Raises:
        ConfigError: The baseline has no such metric.
        DataError: The baseline has no figure, or the runs have no case in common, or cases with
            other annotations.
    """
    _check_truth(run, baseline)
    rows = _chosen(baseline.rows, metrics)
    current = {row.key: row for row in run.rows}
    missing = {case.id for case in baseline.cases} - {case.id for case in run.cases}
    judged = []
    for row in rows:
        found = current.get(row.key)
        if found is None:
            judged.append(GateRow(row, math.nan, 0, _absence(row, run)))
        elif found.cases < row.cases and not limits.fewer_cases:
            reason = f"{found.cases} cases, {row.cases} in the baseline"
            judged.append(GateRow(row, found.value, found.cases, reason))
        elif found.definition != row.definition:
            reason = f"it is the {found.definition}, but the {row.definition} in the baseline"
            judged.append(GateRow(row, found.value, found.cases, reason))
        else:
            failure, note = _judged(row, found.value, limits)
            if missing and not note:
                note = f"{len(missing)} cases of the baseline are missing"
            judged.append(GateRow(row, found.value, found.cases, failure, note))
    return judged


def _check_truth(run: RunResults, baseline: RunResults) -> None:
    cases, expected = cases_by_id(run, "the run"), cases_by_id(baseline, "the baseline")
    if expected and not cases.keys() & expected.keys():
        raise DataError(
            "the run and the baseline have no case in common", "evaluate both on the same data"
        )
    differing = [
        case.id
        for case in baseline.cases
        if case.id in cases and not has_same_truth(case, cases[case.id])
    ]
    if differing:
        raise DataError(
            f"{len(differing)} cases have another query or other annotations than in the baseline, "
            f"the first is {differing[0]!r}",
            "make a new baseline with the current annotations",
        )


def _chosen(rows: Sequence[MetricRow], metrics: Sequence[str]) -> list[MetricRow]:
    if not rows:
        raise DataError("the baseline has no figure")
    for name in metrics:
        if not any(_is_named(row, name) for row in rows):
            names = sorted({f"{row.task}/{row.metric}" for row in rows})
            raise ConfigError(f"the baseline has no metric {name!r}; it has {', '.join(names)}")
    return [row for row in rows if not metrics or any(_is_named(row, name) for name in metrics)]


def _is_named(row: MetricRow, name: str) -> bool:
    return name in (row.metric, f"{row.task}/{row.metric}")


def _absence(row: MetricRow, run: RunResults) -> str:
    others = sorted(
        {
            " in ".join(filter(None, (other.convention, other.unit)))
            for other in run.rows
            if (other.task, other.metric) == (row.task, row.metric)
        }
    )
    return f"missing; the run has it by {', '.join(others)}" if others else "missing"


def _judged(row: MetricRow, value: float, limits: GateLimits) -> tuple[str, str]:
    """Why a figure fails ("" if it passes) and a note."""
    if math.isnan(row.value):
        note = "undefined in the baseline"
        return "", note if math.isnan(value) else f"{note}, not judged"
    if math.isnan(value):
        return "undefined", ""
    loss = value - row.value if row.lower_is_better else row.value - value
    word = "rises" if row.lower_is_better else "drops"
    if not row.unit:
        if loss > limits.max_drop + ROUNDING:
            return f"{word} by {loss:.4g}, more than {limits.max_drop:g}", ""
        return "", ""
    allowed = limits.max_increase * abs(row.value)
    if loss > allowed + ROUNDING * max(1.0, abs(row.value)):
        share = f" ({100 * loss / abs(row.value):.3g} %)" if row.value else ""
        return (
            f"{word} by {loss:.4g} {row.unit}{share}, more than {100 * limits.max_increase:g} %",
            "",
        )
    return "", ""
