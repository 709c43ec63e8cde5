"""The comparison of two runs as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.atomic_files import write_text
from llava_st_ros.evaluation.comparison import (
    MIN_CASES,
    CaseChange,
    Comparison,
    MetricDifference,
)
from llava_st_ros.evaluation.report_page.charts import (
    Chart,
    Point,
    difference_bar,
    paired_scatter,
    round_range,
)
from llava_st_ros.evaluation.report_page.html_page import render
from llava_st_ros.evaluation.report_page.texts import (
    clean,
    milliseconds,
    number,
    plural,
    shortened,
    signed,
)
from llava_st_ros.evaluation.results import Case, RunResults

MAX_LISTED = 50  # ids of a list
TONES = {"better": "good", "worse": "bad"}


def write_comparison(
    path: Path, comparison: Comparison, a: RunResults, b: RunResults, names: tuple[str, str]
) -> None:
    """Write a comparison as one HTML file.

    Args:
        path: The file.
        comparison: ``compare(a, b)``.
        a: The run to compare with.
        b: The run that is judged.
        names: What the runs are called.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(path, comparison_html(comparison, a, b, names))


def comparison_html(
    comparison: Comparison, a: RunResults, b: RunResults, names: tuple[str, str]
) -> str:
    """Return a comparison as HTML."""
    scale = _scale(comparison.differences)
    values = {
        "title": "Comparison of two runs",
        "names": names,
        "warnings": _warnings(comparison),
        "summary": _summary(comparison),
        "scale": f"{scale:g}",
        "rows": [_row(difference, scale) for difference in comparison.differences],
        "scatters": _scatters(comparison, a.cases, b.cases),
        "changes": [_change(change) for change in comparison.changes],
        "stages": list(_stages(a.latency, b.latency)),
        "left_out": [
            (f"{plural(len(lines), noun)} {words}", shortened(lines, MAX_LISTED))
            for lines, noun, words in (
                (comparison.only_a, "case", "of A only"),
                (comparison.only_b, "case", "of B only"),
                (comparison.other_truth, "case", "with other annotations or another query"),
                (comparison.not_compared, "figure", "that cannot be compared"),
            )
            if lines
        ],
        "settings": comparison.settings,
    }
    sections = (
        ("summary", "Summary", True),
        ("differences", "Differences", True),
        ("cases", "Case by case", values["scatters"]),
        ("changes", "Cases that changed most", values["changes"]),
        ("latency", "Latency", values["stages"]),
        ("left-out", "What is not compared", True),
        ("settings", "What ran differently", True),
    )
    shown = [(name, title) for name, title, is_shown in sections if is_shown]
    return render("comparison.html", sections=shown, **values)


def _warnings(comparison: Comparison) -> list[str]:
    warnings = []
    if comparison.other_truth:
        warnings.append(
            f"{plural(len(comparison.other_truth), 'case')} with the same id but other "
            "annotations or another query: not compared."
        )
    if comparison.only_a or comparison.only_b:
        warnings.append(
            f"{plural(len(comparison.only_a), 'case')} of A only and "
            f"{plural(len(comparison.only_b), 'case')} of B only: not compared."
        )
    if comparison.not_compared:
        warnings.append(
            f"{plural(len(comparison.not_compared), 'figure')} cannot be compared; see below."
        )
    return warnings


def _summary(comparison: Comparison) -> str:
    verdicts = [difference.verdict for difference in comparison.differences]
    return (
        f"{plural(comparison.common, 'common case')}. Of {plural(len(verdicts), 'figure')}, B is "
        f"better in {verdicts.count('better')} and worse in {verdicts.count('worse')}; "
        f"{plural(verdicts.count('equal'), 'figure')} are equal; the others are unclear or of "
        f"fewer than {MIN_CASES} cases."
    )


def _scale(differences: Sequence[MetricDifference]) -> float:
    """A round number that is not exceeded by the intervals of figures without a unit."""
    sizes = [
        abs(value) for d in differences if not d.unit for value in (d.low, d.high, d.difference)
    ]
    return round_range([0.0, *(size for size in sizes if not math.isnan(size))])[1]


def _row(d: MetricDifference, scale: float) -> dict[str, Any]:
    return {
        "task": d.task,
        "metric": d.metric,
        "lower_is_better": d.lower_is_better,
        "convention": d.convention,
        "a": d.a,
        "b": d.b,
        "shown_a": number(d.a, d.unit),
        "shown_b": number(d.b, d.unit),
        "difference": d.difference,
        "shown": signed(d.difference, d.unit),
        "interval": _interval(d),
        "bar": "" if d.unit else difference_bar(d.difference, d.low, d.high, scale),
        "cases": d.cases,
        "verdict": d.verdict,
        "tone": TONES.get(d.verdict, ""),
    }


def _interval(d: MetricDifference) -> str:
    if d.cases < 2:
        return "one case"
    if math.isnan(d.low):
        return "–"
    low, high = (signed(v, d.unit).removesuffix(f" {d.unit}") for v in (d.low, d.high))
    return f"{low} to {high}"


def _scatters(comparison: Comparison, a: Sequence[Case], b: Sequence[Case]) -> list[Chart]:
    """For each task with changes the common cases' values in A and B."""
    skipped = set(comparison.other_truth)
    cases_b = {case.id: case for case in b if case.id not in skipped}
    charts = []
    for task, key, convention in dict.fromkeys(
        (change.task, change.metric, change.convention) for change in comparison.changes
    ):
        pairs = [
            (case, cases_b[case.id])
            for case in a
            if case.id in cases_b and key in case.values and key in cases_b[case.id].values
        ]
        own = [(x, y) for x, y in pairs if x.task == task] or pairs
        points = [
            Point(
                x.values[key],
                y.values[key],
                task,
                f"{clean(x.query, 120)}: {number(x.values[key])} in A, "
                f"{number(y.values[key])} in B",
            )
            for x, y in own
        ]
        if points and all(0 <= v <= 1 for p in points for v in (p.x, p.y)):
            charts.append(paired_scatter(points, f"{task}: {key} ({convention})"))
    return charts


def _change(change: CaseChange) -> dict[str, Any]:
    return {
        "id": change.id,
        "query": change.query or "(no text)",
        "task": change.task,
        "metric": change.metric,
        "convention": change.convention,
        "a": change.a,
        "b": change.b,
        "shown_a": number(change.a),
        "shown_b": number(change.b),
        "difference": change.difference,
        "shown": signed(change.difference),
    }


def _stages(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]
) -> Iterator[dict[str, Any]]:
    for stage in dict.fromkeys((*a, *b)):
        values = [
            float(np.quantile(run[stage], share)) if run.get(stage) else math.nan
            for share in (0.5, 0.9)
            for run in (a, b)
        ]
        cells = [(value, milliseconds(value)) for value in values]
        yield {"name": stage.replace("_", " "), "cells": cells}
