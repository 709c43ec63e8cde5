"""The report of a run as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.evaluation.comparison import flattened
from llava_st_ros.evaluation.frame_readers import FrameReader
from llava_st_ros.evaluation.metric_kinds import Metric
from llava_st_ros.evaluation.report_page.charts import (
    Chart,
    Point,
    histogram,
    interval_bar,
    legend,
    scatter,
    share_bar,
)
from llava_st_ros.evaluation.report_page.convention_lines import convention_lines, side_by_side
from llava_st_ros.evaluation.report_page.film_views import film_view
from llava_st_ros.evaluation.report_page.filmstrips import filmstrips
from llava_st_ros.evaluation.report_page.groups import (
    Group,
    case_figure,
    film_cases,
    groups_of,
    has_key,
    is_plain_mean,
)
from llava_st_ros.evaluation.report_page.html_page import render
from llava_st_ros.evaluation.report_page.texts import (
    CleanText,
    clean,
    milliseconds,
    number,
    plural,
    shortened,
)
from llava_st_ros.evaluation.report_page.timelines import timelines_by_source
from llava_st_ros.evaluation.results import Case, MetricRow, RunResults

MAX_ROWS = 400  # queries of a table
MAX_TIMELINES = 80
MAX_POINTS = 800
MAX_COLUMNS = 8
MAX_CARDS = 8
MAX_LINES = 100  # of what was dropped
MAX_PROBLEMS = 3  # of a query
MAX_DRAWN = 1e12  # seconds and the like; an axis to a larger value would show nothing
ABOUT_CHARACTERS = 2000
# Samples of a case that are the time its answers take, the first that a run has.
DELAYS = ("stamp_to_answer", "latency", "detection_delay")


def report_html(results: RunResults, frames: FrameReader) -> str:
    """Return the report.

    Args:
        results: The run.
        frames: Reads the frames of the best and worst cases.
    """
    groups = groups_of(results)
    has_blind = any(row.blind is not None for row in results.rows)
    best, worst = film_cases(groups)
    films = filmstrips([case for case, _ in (*best, *worst)], frames)
    points, x_label = _points(groups)
    chart = _scatter(points, x_label)
    listed = _timeline_cases(results.cases, groups)
    lines = timelines_by_source(listed, _figures(groups))
    anchors = {item.case: item.id for line in lines for item in line.entries}
    values = {
        "title": f"Evaluation of {_name(results)}",
        "facts": _facts(results),
        "warnings": _warnings(results),
        "cards": _cards(groups, results),
        "rows": [_row(row) for row in results.rows],
        "has_blind": has_blind,
        "scatter": chart,
        "scatter_legend": legend(point.series for point in points),
        "scatter_note": _scatter_note(points, x_label),
        "histograms": _histograms(groups, results),
        "groups": [_table(group, anchors) for group in _listed(groups, results)],
        "films": [
            {
                "title": title,
                "cases": [film_view(case, group, films[case.id]) for case, group in cases],
            }
            for title, cases in (("Best", best), ("Worst", worst))
            if cases
        ],
        "timelines": lines,
        "timelines_note": (
            f"The {len(listed)} worst of the run's {len(results.cases)} cases."
            if len(listed) < len(_with_timeline(results.cases))
            else ""
        ),
        "stages": _stages(results.latency),
        "conventions": convention_lines(results.rows),
        "beside": _beside(results.rows),
        "dropped": shortened(results.dropped, MAX_LINES),
        "about": [
            (name, CleanText(clean(text, ABOUT_CHARACTERS) or "–"))
            for name, text in flattened(results.about).items()
        ],
    }
    return render("report.html", sections=_sections(values), **values)


def _with_timeline(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.expected or case.predicted]


def _timeline_cases(cases: Sequence[Case], groups: Sequence[Group]) -> list[Case]:
    """The cases with a timeline, in the run's order; only the worst if there are many."""
    shown = _with_timeline(cases)
    if len(shown) <= MAX_TIMELINES:
        return shown
    scores: dict[str, float] = {}
    for group in groups:
        for case in group.cases:
            score = group.score(case)
            if not math.isnan(score):
                scores.setdefault(case.id, score)
    worst = sorted(shown, key=lambda case: scores.get(case.id, 0.0))[:MAX_TIMELINES]
    ids = {case.id for case in worst}
    return [case for case in shown if case.id in ids]


def _figures(groups: Sequence[Group]) -> dict[str, str]:
    """Each case's primary figure, with its name."""
    figures: dict[str, str] = {}
    for group in groups:
        for case in group.cases:
            score = group.score(case)
            if group.primary is not None and not math.isnan(score):
                figures.setdefault(case.id, f"{group.primary_name} {number(score)}")
    return figures


def _name(results: RunResults) -> str:
    model = str(results.about.get("model") or "a run")
    return Path(model).name or model


def _facts(results: RunResults) -> list[str]:
    about = results.about
    sources = {case.source for case in results.cases}
    facts = [plural(len(results.cases), "case"), plural(len(sources), "recording")]
    facts += [str(about[name]) for name in ("mode", "backend", "device") if about.get(name)]
    if isinstance(about.get("seconds"), (int, float)):
        facts.append(f"took {about['seconds']:g} s")
    return facts


def _warnings(results: RunResults) -> list[str]:
    warnings = []
    if results.dropped:
        warnings.append(
            f"{plural(len(results.dropped), 'line')} under “What was dropped”: figures are of what "
            "was evaluated."
        )
    problems = sum(bool(case.problems) for case in results.cases)
    if problems:
        warnings.append(f"{plural(problems, 'case')} with answers that had problems.")
    return warnings


def _cards(groups: Sequence[Group], results: RunResults) -> list[dict[str, str]]:
    cards = []
    for group in groups:
        if group.primary is not None:
            overlaps = [row for row in group.rows if is_plain_mean(row) and has_key(row, "viou")]
            primary = [row for row in group.rows if row.metric == group.primary.name]
            cards += [_card(row) for row in (overlaps or primary)[:2]]
    of_unit: dict[str, MetricRow] = {}
    for row in results.rows:
        if not math.isnan(row.value):
            of_unit.setdefault(row.unit, row)
    timely = [of_unit[unit] for unit in ("s", "1/h", "1/min") if unit in of_unit][:2]
    cards = [*cards[: MAX_CARDS - 1 - len(timely)], *map(_card, timely)]
    for stage in ("stamp_to_answer", "tick"):
        if samples := results.latency.get(stage):
            p50, p90 = np.quantile(samples, (0.5, 0.9))
            note = f"p90 {number(float(p90), 's')} · {plural(len(samples), 'sample')}"
            name = f"Latency: {_words(stage)}, p50"
            value = number(float(p50), "s")
            cards.append({"name": name, "value": value, "interval": "", "note": note})
            break
    return cards


def _card(row: MetricRow) -> dict[str, str]:
    return {
        "name": f"{row.task}: {row.metric}",
        "value": number(row.value, row.unit),
        "interval": _interval(row) if row.cases > 1 else "",
        "note": f"{plural(row.cases, 'case')} · {row.convention}"
        + (f" · blind {number(row.blind)}" if row.blind is not None else ""),
    }


def _row(row: MetricRow) -> dict[str, Any]:
    return {
        "task": row.task,
        "metric": row.metric,
        "lower_is_better": row.lower_is_better,
        "value": row.value,
        "shown": number(row.value, row.unit),
        "interval": _interval(row),
        "bar": _bar(row),
        "blind": row.blind,
        "shown_blind": number(row.blind, row.unit),
        "cases": row.cases,
        "convention": row.convention or "not named",
        "definition": str(row.definition or "not in the file"),
    }


def _bar(row: MetricRow) -> Any:
    if row.unit:
        return ""
    low, high = (row.low, row.high) if row.cases != 1 else (row.value, row.value)
    return interval_bar(row.value, low, high, row.blind)


def _interval(row: MetricRow) -> str:
    """The interval in words; resampling a single case has no meaning."""
    if row.cases == 1:
        return "one case"
    if math.isnan(row.low):
        return "–"
    low, high = (number(v, row.unit).removesuffix(f" {row.unit}") for v in (row.low, row.high))
    return f"{low} to {high}"


def _points(groups: Sequence[Group]) -> tuple[list[Point], str]:
    """A point for each case with an accuracy and a time, and what the time is."""
    keys = {key for group in groups for case in group.cases for key in case.samples}
    delay = next((name for name in DELAYS if name in keys), None)
    if delay is None:
        return [], ""
    points, seen = [], set()
    for group in groups:
        for case in group.cases:
            score, samples = group.score(case), case.samples.get(delay, ())
            time = float(np.median(samples)) if samples else math.nan
            if not (0 <= score <= 1 and abs(time) <= MAX_DRAWN) or case.id in seen:
                continue
            if group.primary is not None:
                seen.add(case.id)
                label = (
                    f"{clean(case.query, 120)}: {group.primary.name} {number(score)}, "
                    f"{number(time, 's')}"
                )
                points.append(Point(time, score, f"{case.task}: {group.primary_name}", label))
    return points, _words(delay)


def _scatter(points: Sequence[Point], x_label: str) -> Chart | None:
    if not points:
        return None
    chosen = np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).round().astype(int)
    shown = [points[index] for index in chosen]
    return scatter(shown, f"Accuracy against {x_label}", x_label, "s", "accuracy")


def _scatter_note(points: Sequence[Point], x_label: str) -> str:
    note = f"A mark for each query. Its {x_label} is the median of its samples."
    if len(points) > MAX_POINTS:
        note += f" {MAX_POINTS} of {len(points)} queries are drawn."
    return note


def _histograms(groups: Sequence[Group], results: RunResults) -> list[Chart]:
    charts: list[Chart] = []
    done: set[tuple[str, frozenset[str]]] = set()
    for group in groups:
        if group.primary is None:
            continue
        drawn = group.primary.key, frozenset(case.id for case in group.cases)
        if drawn in done:
            continue
        done.add(drawn)
        scores = [score for case in group.cases if 0 <= (score := group.score(case)) <= 1]
        if len(scores) > 1 or (scores and not charts):
            name = group.primary_name
            charts.append(histogram(scores, f"{group.task}: {name} by query", name, share=True))
    units = {
        row.definition.key: row.unit
        for row in results.rows
        if row.definition is not None and row.definition.kind == "quantile"
    }
    definitions = [row.definition for row in results.rows if row.definition is not None]
    probabilities = {
        key for each in definitions if each.negatives for key in (each.key, each.negatives)
    }
    for key in dict.fromkeys(key for case in results.cases for key in case.samples):
        samples = [v for case in results.cases for v in case.samples.get(key, ())]
        if finite := [v for v in samples if abs(v) <= MAX_DRAWN]:
            share = key in probabilities
            unit = "" if share else units.get(key, "s")
            charts.append(histogram(finite, _words(key), "", unit, share=share))
    for stage in ("stamp_to_answer", "tick"):
        if any(stage in case.samples for case in results.cases):
            continue
        if finite := [v for v in results.latency.get(stage, ()) if abs(v) <= MAX_DRAWN]:
            charts.append(histogram(finite, f"latency: {_words(stage)}", "", "s"))
    return charts


def _table(group: Group, anchors: Mapping[str, str]) -> dict[str, Any]:
    """The cases of a task, worst first, with the figure that each has of its metrics."""
    metrics = _columns(group.rows)
    cases = sorted(group.cases, key=lambda case: (_ordered(group.score(case)), case.id))
    note = f"The {MAX_ROWS} worst of {len(cases)} cases; all are in cases.csv."
    return {
        "task": group.task,
        "note": note if len(cases) > MAX_ROWS else "",
        "columns": [(metric.name, metric.convention) for metric in metrics],
        "lines": [
            {
                "query": case.query or "(no text)",
                "task": case.task,
                "source": case.source,
                "link": anchors.get(case.id, ""),
                "cells": [
                    (value, number(value, metric.unit))
                    for metric in metrics
                    for value in [case_figure(metric, case)]
                ],
                "problems": shortened(case.problems, MAX_PROBLEMS),
            }
            for case in cases[:MAX_ROWS]
        ],
    }


def _columns(rows: Iterable[MetricRow]) -> list[Metric]:
    """The metrics of which a single case's value is shown: no shares of cases, each key once.

    If there are more than MAX_COLUMNS, overlaps of tubes come first, then delays, a rate of each
    unit, and the others.
    """
    of_key: dict[tuple[str, str], MetricRow] = {}
    for row in rows:
        definition = row.definition
        if definition is not None and definition.above is None and definition.reaching is None:
            of_key.setdefault((definition.kind, definition.key), row)
    units: set[str] = set()
    ranked: list[tuple[int, MetricRow]] = []
    for (kind, _), row in of_key.items():
        is_rate = kind == "ratio" and bool(row.unit) and row.unit not in units
        units.add(row.unit)
        rank = 0 if has_key(row, "viou") else 1 if kind == "quantile" else 2 if is_rate else 3
        ranked.append((rank, row))
    if len(ranked) > MAX_COLUMNS:
        ranked.sort(key=lambda entry: entry[0])
    metrics = [row.defined_metric() for _, row in ranked[:MAX_COLUMNS]]
    return [metric for metric in metrics if metric is not None]


def _listed(groups: Sequence[Group], results: RunResults) -> list[Group]:
    """The groups of which tables are shown: none whose figures earlier ones have shown."""
    listed: list[Group] = []
    shown: set[tuple[str, str]] = set()  # case and metric
    for group in groups:
        names = [metric.name for metric in _columns(group.rows)]
        figures = {(case.id, name) for case in group.cases for name in names}
        if not figures <= shown:
            shown |= figures
            listed.append(group)
    return [*listed, *_ungrouped(results, groups)]


def _ungrouped(results: RunResults, groups: Sequence[Group]) -> list[Group]:
    """The cases that no figure is computed from."""
    shown = {case.id for group in groups for case in group.cases}
    rest = [case for case in results.cases if case.id not in shown]
    tasks = dict.fromkeys(case.task for case in rest)
    return [
        Group(f"{task} (no figures)", (), tuple(c for c in rest if c.task == task), None)
        for task in tasks
    ]


def _ordered(score: float) -> float:
    return math.inf if math.isnan(score) else score


def _stages(latency: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    quantiles = {
        stage: [float(v) for v in np.quantile(samples, (0.5, 0.9, 0.99, 1.0))]
        for stage, samples in latency.items()
        if len(samples)
    }
    longest = max((values[1] for values in quantiles.values()), default=0.0) or 1.0
    return [
        {
            "name": _words(stage),
            "bar": share_bar(values[0] / longest, values[1] / longest),
            "cells": [(value, milliseconds(value)) for value in values],
            "samples": len(latency[stage]),
        }
        for stage, values in quantiles.items()
    ]


def _beside(rows: Sequence[MetricRow]) -> dict[str, Any] | None:
    table = side_by_side(rows)
    if table is None:
        return None
    lines = [
        (
            task,
            metric,
            [("", "–") if r is None else (r.value, number(r.value, r.unit)) for r in found],
        )
        for task, metric, found in table.lines
    ]
    return {"conventions": table.conventions, "lines": lines}


def _words(key: str) -> str:
    return "answer latency" if key == "stamp_to_answer" else key.replace("_", " ")


def _sections(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    sections = (
        ("summary", "Summary", True),
        ("figures", "Figures", True),
        ("accuracy-time", "Accuracy against time", values["scatter"]),
        ("distributions", "Distributions", values["histograms"]),
        ("queries", "Queries", True),
        ("films", "Best and worst cases", values["films"]),
        ("timelines", "Timelines", values["timelines"]),
        ("latency", "Latency", True),
        ("conventions", "Conventions", values["conventions"]),
        ("dropped", "What was dropped", True),
        ("about", "What ran", True),
    )
    return [(name, title) for name, title, shown in sections if shown]
