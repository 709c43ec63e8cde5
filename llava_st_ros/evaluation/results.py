"""The results of an evaluation run: what ran, its cases, and its figures. Read and written as JSON.

A *case* is one query on one recording, benchmark sample or simulated clip, with its values. Figures
are computed from cases, so that two runs can be compared case by case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.metric_definitions import (
    MetricDefinition,
    defined_metric,
    definition_of,
)
from llava_st_ros.evaluation.metric_kinds import Metric
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.limits import RESULTS_BYTES
from llava_st_ros.files.schema import build
from llava_st_ros.records import Box

RESULTS_FILE = "results.json"
FORMAT = "llava_st_ros/results"
VERSION = 1
REMEDY = "name a results.json, or the folder that an evaluation has written"
MAX_STAMP = 2**62  # ns; differences fit into 64 bits
BOX_DIGITS = 5  # decimals of a box in the file


@dataclass(frozen=True)
class Timeline:
    """When and where something is, predicted or annotated.

    Attributes:
        spans: (start, end) in ns of header time, both included.
        boxes: Box in [0, 1] by stamp (ns).
    """

    spans: tuple[tuple[int, int], ...] = ()
    boxes: Mapping[int, Box] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One query on one recording or sample, scored.

    Attributes:
        id: Unique in the run, and the same in every run on the same data.
        source: The recording or sample, as a path or a benchmark's id.
        task: The category (``scoring.category``).
        query: The query's text.
        values: Numbers by key, each in [0, 1] unless its metric has a unit.
        counts: Numerator and denominator by key.
        samples: Lists of numbers by key.
        expected: The ground truth in header time; None where there is no timeline.
        predicted: What was answered, alike.
        topic: The image topic of a bag.
        problems: What was wrong with the answers, one line each (unparsed, failed evaluations).
    """

    id: str
    source: str
    task: str
    query: str
    values: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    expected: Timeline | None = None
    predicted: Timeline | None = None
    topic: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricRow:
    """One figure of a run.

    Attributes:
        task: The category (``scoring.category``), or "stream" for figures of standing queries.
        metric: The metric's published name.
        value: The figure; NaN if it is undefined (JSON: null).
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        cases: Number of cases.
        convention: The scoring convention.
        unit: Its unit; empty for shares and IoUs.
        lower_is_better: Whether smaller values are better.
        blind: The figure of the blind baseline, if it was run.
        definition: How it is computed from the cases.
    """

    task: str
    metric: str
    value: float
    low: float
    high: float
    cases: int
    convention: str = ""
    unit: str = ""
    lower_is_better: bool = False
    blind: float | None = None
    definition: MetricDefinition | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies the figure in a run: task, metric, convention and unit."""
        return self.task, self.metric, self.convention, self.unit

    @property
    def name(self) -> str:
        """Task, metric and convention."""
        return f"{self.task} {self.metric} ({self.convention})"

    def defined_metric(self) -> Metric | None:
        """Return the metric that the figure is of; None if the row has no definition."""
        if self.definition is None:
            return None
        return defined_metric(
            self.definition, self.metric, self.convention, self.unit, self.lower_is_better
        )


@dataclass(frozen=True)
class RunResults:
    """A run's results.

    Attributes:
        about: What ran, as plain values: command, mode, model, checksums, backend, device,
            versions, machine, seconds (``about_run``).
        cases: Its cases, in a fixed order.
        rows: Its figures.
        dropped: What was not evaluated and why, one line each: frames, seconds, recordings.
        latency: Samples in seconds by stage ("encode", "pack", "prefill", "decode", "tick",
            "stamp_to_answer", ...).
    """

    about: Mapping[str, Any]
    cases: tuple[Case, ...]
    rows: tuple[MetricRow, ...]
    dropped: tuple[str, ...] = ()
    latency: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def cases_by_id(run: RunResults, name: str) -> dict[str, Case]:
    """Return a run's cases by id.

    Args:
        run: The run.
        name: What an error calls it.

    Raises:
        DataError: An id is not unique, so it does not identify the case to compare.
    """
    cases: dict[str, Case] = {}
    for case in run.cases:
        if case.id in cases:
            raise DataError(f"{name} has two cases of id {case.id!r}")
        cases[case.id] = case
    return cases


def rows_of(
    task: str,
    metrics: Sequence[Metric],
    cases: Sequence[Case],
    blind: Sequence[Case] = (),
) -> list[MetricRow]:
    """Return the rows of the metrics that apply to any of the cases.

    Args:
        task: The category of the rows.
        metrics: The metrics, in the order of the rows.
        cases: The cases of the category.
        blind: The cases of the blind baseline.
    """
    rows = []
    for metric in metrics:
        applicable = [case for case in cases if metric.applies_to(case)]
        if not applicable:
            continue
        baseline = [case for case in blind if metric.applies_to(case)]
        low, high = metric.interval(applicable)
        rows.append(
            MetricRow(
                task,
                metric.name,
                metric.value(applicable),
                low,
                high,
                len(applicable),
                metric.convention,
                metric.unit,
                metric.lower_is_better,
                metric.value(baseline) if baseline else None,
                definition_of(metric),
            )
        )
    return rows


def results_json(results: RunResults) -> dict[str, Any]:
    """Return a run's results as plain values: stamps in ns, boxes as fractions, NaN as None."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": dict(results.about),
        "metrics": [without_nan(asdict(row)) for row in results.rows],
        "dropped": list(results.dropped),
        "latency": {stage: list(samples) for stage, samples in results.latency.items()},
        "cases": [_case_json(case) for case in results.cases],
    }


def without_nan(value: Any) -> Any:
    """Return plain values with None instead of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_results(path: Path, results: RunResults) -> None:
    """Write a run's results as JSON, atomically: a line for each figure and case."""
    document = results_json(results)
    parts = [f"{json.dumps(name)}: {_lines(value)}" for name, value in document.items()]
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def read_results(path: Path) -> RunResults:
    """Read a run's results: a results.json, or the folder that contains one.

    Raises:
        DataError: It cannot be read, or is not a file of results of this version.
    """
    if path.is_dir():
        path /= RESULTS_FILE
    loaded = read_json(path, DataError, REMEDY, max_bytes=RESULTS_BYTES)
    if loaded.get("format") != FORMAT:
        raise DataError(f"{path} is not a file of results", REMEDY)
    if loaded.get("version") != VERSION:
        raise DataError(
            f"{path} has version {loaded.get('version')!r} of the results; this program reads "
            f"version {VERSION}",
            "run the evaluation again",
        )
    content = {name: value for name, value in loaded.items() if name not in ("format", "version")}
    document = build(_Document, content, str(path), DataError)
    rows = tuple(
        MetricRow(**{**vars(row), **{name: _number(getattr(row, name)) for name in _FIGURES}})
        for row in document.metrics
    )
    cases = tuple(
        _case(entry, f"{path}: case {number}") for number, entry in enumerate(document.cases)
    )
    return RunResults(document.about, cases, rows, document.dropped, document.latency)


@dataclass(frozen=True)
class _Row:
    """A row as in the file, where an undefined figure is null."""

    task: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    cases: int
    convention: str = ""
    unit: str = ""
    lower_is_better: bool = False
    blind: float | None = None
    definition: MetricDefinition | None = None


_FIGURES = ("value", "low", "high")


@dataclass(frozen=True)
class _Timeline:
    spans: tuple[tuple[int, int], ...]
    boxes: tuple[tuple[int, float, float, float, float], ...]  # stamp (ns) and corners


@dataclass(frozen=True)
class _Case:
    id: str
    source: str
    task: str
    query: str
    values: Mapping[str, float]
    counts: Mapping[str, tuple[float, float]]
    samples: Mapping[str, tuple[float, ...]]
    expected: _Timeline | None
    predicted: _Timeline | None
    topic: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Document:
    about: Mapping[str, Any]
    metrics: tuple[_Row, ...]
    dropped: tuple[str, ...]
    latency: Mapping[str, tuple[float, ...]]
    cases: tuple[Mapping[str, Any], ...]


def _lines(value: Any) -> str:
    """JSON with the items of a list on lines of their own.

    Boxes are many, and an indented file has a line for each of their numbers.
    """
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _case_json(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "source": case.source,
        "task": case.task,
        "query": case.query,
        "values": dict(case.values),
        "counts": {key: list(counts) for key, counts in case.counts.items()},
        "samples": {key: list(samples) for key, samples in case.samples.items()},
        "expected": _timeline_json(case.expected),
        "predicted": _timeline_json(case.predicted),
        "topic": case.topic,
        "problems": list(case.problems),
    }


def _timeline_json(timeline: Timeline | None) -> dict[str, Any] | None:
    if timeline is None:
        return None
    return {
        "spans": [list(span) for span in timeline.spans],
        "boxes": [
            [stamp, *(round(v, BOX_DIGITS) for v in (box.x1, box.y1, box.x2, box.y2))]
            for stamp, box in timeline.boxes.items()
        ],
    }


def _case(values: Mapping[str, Any], where: str) -> Case:
    read = build(_Case, values, where, DataError)
    timelines = {
        name: _timeline(getattr(read, name), f"{where}: {name}")
        for name in ("expected", "predicted")
    }
    return Case(**{**vars(read), **timelines})


def _timeline(read: _Timeline | None, where: str) -> Timeline | None:
    if read is None:
        return None
    for start, end in read.spans:
        if end < start:
            raise DataError(f"{where}: a span ends at {end}, before its start at {start}")
    stamps = [*(stamp for span in read.spans for stamp in span), *(box[0] for box in read.boxes)]
    for stamp in stamps:
        if abs(stamp) > MAX_STAMP:
            raise DataError(f"{where}: {shown(stamp)} is not a stamp in ns")
    return Timeline(read.spans, {stamp: Box(*corners) for stamp, *corners in read.boxes})
