"""Metrics over cases, and files of results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation import metric_kinds
from llava_st_ros.evaluation.metric_kinds import (
    MeanMetric,
    QuantileMetric,
    RatioMetric,
    Threshold,
    above,
    reaching,
    resamples,
)
from llava_st_ros.evaluation.results import (
    RESULTS_FILE,
    Case,
    MetricRow,
    RunResults,
    Timeline,
    read_results,
    rows_of,
    write_results,
)
from llava_st_ros.records import Box

CASES = (
    Case("a", "bag", "STVG", "it rolls", {"vIoU": 0.5}, {"false": (1.0, 0.5)}, {"delay": (1.0,)}),
    Case("b", "bag", "STVG", "it rolls", {"vIoU": 0.3}, {"false": (0.0, 1.5)}, {"delay": ()}),
    Case("c", "bag", "STVG", "it rolls", {"vIoU": 0.0}, {}, {"delay": (3.0, 5.0)}),
    Case("d", "bag", "TVG", "it rolls", {"tIoU": 1.0}),
)
METRICS = (
    MeanMetric("m_vIoU", "vIoU"),
    MeanMetric("vIoU@0.3", "vIoU", transform=above(0.3)),
    MeanMetric("vIoU>=0.3", "vIoU", transform=reaching(0.3)),
    RatioMetric("false events", "false", unit="1/h", lower_is_better=True),
    QuantileMetric("delay p50", "delay", unit="s", lower_is_better=True),
    MeanMetric("absent", "nothing"),
)

CASE = {
    "id": "a",
    "source": "",
    "task": "STVG",
    "query": "",
    "topic": "",
    "problems": [],
    "values": {},
    "counts": {},
    "samples": {},
    "expected": None,
    "predicted": None,
}
ROW = {"task": "STVG", "metric": "x", "value": 1.0, "low": 1.0, "high": 1.0, "cases": 1}


def run() -> RunResults:
    expected = Timeline(((1, 5),), {2: Box(0.1, 0.2, 0.3, 0.4)})
    cases = (replace(CASES[0], expected=expected, topic="/image", problems=("no",)), *CASES[1:])
    rows = tuple(rows_of("STVG", METRICS, cases))
    about = {"model": "tiny", "versions": {"numpy": "2"}}
    return RunResults(about, cases, rows, ("3 frames: late",), {"encode": (0.1, 0.2)})


def test_figures_are_means_ratios_of_sums_and_pooled_quantiles() -> None:
    rows = {row.metric: row for row in rows_of("STVG", METRICS, CASES)}
    assert "absent" not in rows
    assert rows["m_vIoU"].value == pytest.approx(0.8 / 3)
    assert rows["vIoU@0.3"].value == pytest.approx(1 / 3)
    assert rows["vIoU>=0.3"].value == pytest.approx(2 / 3)
    assert (rows["false events"].value, rows["false events"].cases) == (0.5, 2)
    assert rows["delay p50"].value == 3.0
    assert rows["m_vIoU"].low < rows["m_vIoU"].value < rows["m_vIoU"].high
    assert rows["false events"].unit == "1/h" and rows["false events"].lower_is_better


def test_a_figure_without_events_or_samples_is_undefined() -> None:
    cases = (Case("a", "", "STVG", "", {}, {"false": (1.0, 0.0)}, {"delay": ()}),)
    rows = rows_of("STVG", METRICS, cases)
    assert [row.metric for row in rows] == ["false events", "delay p50"]
    assert all(math.isnan(value) for row in rows for value in (row.value, row.low, row.high))


def test_thresholds_are_strict_where_the_benchmarks_require_it() -> None:
    def share(transform: Threshold, *values: float) -> float:
        cases = [Case(str(n), "", "STVG", "", {"vIoU": value}) for n, value in enumerate(values)]
        return MeanMetric("share", "vIoU", transform=transform).value(cases)

    assert share(above(0.5), 0.5, 0.51) == 0.5
    assert share(reaching(0.5), 0.5, 0.49) == 0.5


def test_the_interval_contains_the_mean_and_narrows_with_more_cases() -> None:
    values = np.random.default_rng(3).random(400)
    cases = [Case(str(n), "", "STVG", "", {"vIoU": value}) for n, value in enumerate(values)]
    metric = MeanMetric("m_vIoU", "vIoU")
    low, high = metric.interval(cases)
    few_low, few_high = metric.interval(cases[:20])
    assert low < values.mean() < high
    assert (high - low) < (few_high - few_low) / 2
    # At this size the interval agrees with the normal approximation, +- 1.96 standard errors.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert metric.interval(cases) == (low, high)
    assert metric.interval([replace(case, values={"vIoU": 0.25}) for case in cases]) == (0.25, 0.25)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy_on_the_pooled_samples(quantile: float) -> None:
    random = np.random.default_rng(1)
    cases = [
        Case(str(n), "", "STVG", "", samples={"delay": tuple(random.integers(0, 9, n % 4) / 3.0)})
        for n in range(20)
    ]
    indices = random.integers(0, 20, (50, 20))
    indices[0] = 0  # a case without samples
    figures = QuantileMetric("p", "delay", quantile=quantile).of_resamples(cases, indices)
    assert math.isnan(figures[0])
    for figure, chosen in zip(figures[1:], indices[1:]):
        pooled = np.concatenate([cases[i].samples["delay"] for i in chosen])
        assert figure == pytest.approx(np.quantile(pooled, quantile), abs=1e-12)


def test_resamples_in_batches_are_those_of_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_kinds, "BATCH", 1000)
    batches = list(resamples(7, seed=3))
    assert len(batches) == 15 and sum(map(len, batches)) == metric_kinds.RESAMPLES
    at_once = np.random.default_rng(3).integers(0, 7, (metric_kinds.RESAMPLES, 7))
    np.testing.assert_array_equal(np.concatenate(batches), at_once)
    assert len(next(resamples(5000))) == 1


def test_results_are_read_as_written(tmp_path: Path) -> None:
    written = run()
    write_results(tmp_path / RESULTS_FILE, written)
    assert read_results(tmp_path) == read_results(tmp_path / RESULTS_FILE) == written
    undefined = replace(written, rows=(MetricRow("STVG", "x", math.nan, math.nan, math.nan, 0),))
    write_results(tmp_path / RESULTS_FILE, undefined)
    assert json.loads((tmp_path / RESULTS_FILE).read_text())["metrics"][0]["value"] is None
    (row,) = read_results(tmp_path).rows
    assert math.isnan(row.value) and math.isnan(row.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a file of results"),
        ({"version": 9}, "has version 9 of the results"),
        ({"cases": [{"id": 1}]}, "case 0"),
        ({"metrics": [{"task": "STVG"}]}, "lacks metric, value"),
        ({"latency": {"encode": ["x"]}}, "latency: encode"),
        ({"cases": [CASE | {"expected": {"spans": [[2, 1]], "boxes": []}}]}, "ends at 1, before"),
        (
            {"cases": [CASE | {"predicted": {"spans": [], "boxes": [[10**19, 0.0, 0.0, 1, 1]]}}]},
            "case 0: predicted: 10000000000000000000 is not a stamp",
        ),
        ({"metrics": [ROW | {"definition": {"kind": "quantile", "key": "d"}}]}, "quantile None"),
        ({"metrics": [ROW | {"definition": {"kind": "sum", "key": "d"}}]}, "expected 'mean'"),
    ],
)
def test_other_files_are_rejected_with_their_place(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / RESULTS_FILE
    write_results(path, run())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_results(path)


def test_a_figure_of_a_file_is_computed_again_from_its_cases(tmp_path: Path) -> None:
    write_results(tmp_path / RESULTS_FILE, run())
    read = read_results(tmp_path)
    assert len(read.rows) == 5
    for row in read.rows:
        metric = row.defined_metric()
        assert metric is not None
        cases = [case for case in read.cases if metric.applies_to(case)]
        assert (metric.value(cases), metric.interval(cases)) == (row.value, (row.low, row.high))
        assert (metric.name, metric.unit) == (row.metric, row.unit)
    assert str(read.rows[2].definition) == "share of vIoU >= 0.3"
    assert str(read.rows[4].definition) == "p50 of delay"


def test_a_transform_of_unknown_form_has_no_definition() -> None:
    (row,) = rows_of("STVG", [MeanMetric("x", "vIoU", transform=lambda v: v * v)], CASES)
    assert row.definition is None and row.defined_metric() is None
