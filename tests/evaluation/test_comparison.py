"""Paired differences between runs, with worked-out values."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.comparison import (
    Comparison,
    cases_of,
    compare,
    comparison_json,
    flattened,
    paired_interval,
)
from llava_st_ros.evaluation.metric_kinds import (
    MeanMetric,
    QuantileMetric,
    RatioMetric,
    above,
)
from llava_st_ros.evaluation.results import Case, RunResults, Timeline, rows_of, write_results
from llava_st_ros.records import Box

MEAN = MeanMetric("m_vIoU", "vIoU")
METRICS = (
    MEAN,
    MeanMetric("vIoU@0.3", "vIoU", transform=above(0.3)),
    RatioMetric("false events", "false", unit="1/h", lower_is_better=True),
    QuantileMetric("delay p50", "delay", unit="s", lower_is_better=True),
)


def case(name: str, viou: float, false: float = 0.0, delays: tuple[float, ...] = ()) -> Case:
    truth = Timeline(((0, 10),), {5: Box(0.1, 0.1, 0.2, 0.2)})
    return Case(
        name, "bag", "STVG", f"query {name}", {"vIoU": viou}, {"false": (false, 0.5)},
        {"delay": delays}, truth, Timeline(), "/image",
    )  # fmt: skip


def run(*cases: Case, **about: object) -> RunResults:
    return RunResults(about, cases, tuple(rows_of("STVG", METRICS, cases)))


A = run(case("a", 0.2, 1, (1.0, 2.0)), case("b", 0.4, 0, (3.0,)), case("c", 0.6, 2, ()))
B = run(case("a", 0.3, 0, (1.0, 1.0)), case("b", 0.5, 0, (2.0,)), case("c", 0.7, 1, ()))


def by_metric(comparison: Comparison) -> dict[str, tuple[float, ...]]:
    return {d.metric: (d.a, d.b, d.difference) for d in comparison.differences}


def test_differences_are_of_means_ratios_and_quantiles() -> None:
    values = by_metric(compare(A, B))
    assert values["m_vIoU"] == pytest.approx((0.4, 0.5, 0.1))
    assert values["vIoU@0.3"] == pytest.approx((2 / 3, 2 / 3, 0.0))
    assert values["false events"] == pytest.approx((2.0, 2 / 3, -4 / 3))  # 3 and 1 in 1.5 h
    assert values["delay p50"] == pytest.approx((2.0, 1.0, -1.0))


def test_what_cases_have_in_common_cancels_in_the_interval() -> None:
    """Every case gains 0.1: the paired interval is a point, however much the cases differ."""
    (mean, *_) = compare(A, B).differences
    assert (mean.low, mean.high) == pytest.approx((0.1, 0.1))
    assert mean.verdict == "too few"
    (unpaired, *_) = A.rows
    assert unpaired.high - unpaired.low > 0.2


def test_the_interval_covers_what_enumeration_of_all_resamples_gives() -> None:
    """Two cases that change by +0.3 and -0.1: their resampled means are 0.3, 0.1, 0.1 and -0.1."""
    a, b = [case("a", 0.1), case("b", 0.5)], [case("a", 0.4), case("b", 0.4)]
    changes = [0.3, -0.1]
    exact = [np.mean(pair) for pair in itertools.product(changes, repeat=2)]
    assert paired_interval(MEAN, a, b) == pytest.approx((min(exact), max(exact)))


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [("m_vIoU", "worse"), ("false events", "unclear"), ("delay p50", "undefined")],
)
def test_the_verdict_knows_the_direction_of_a_metric(metric: str, verdict: str) -> None:
    a = run(*(case(str(n), 0.5, n % 2) for n in range(6)))
    b = run(*(case(str(n), 0.4, (n + 1) % 2) for n in range(6)))
    assert {d.metric: d.verdict for d in compare(a, b).differences}[metric] == verdict


@pytest.mark.parametrize(("count", "verdict"), [(6, "better"), (5, "too few"), (1, "too few")])
def test_few_cases_allow_no_verdict(count: int, verdict: str) -> None:
    """By a sign test, six changes of six in one direction are significant at 5 %, five are not."""
    slow = run(*(case(str(n), 0.5, 2, (4.0,)) for n in range(count)))
    fast = run(*(case(str(n), 0.5, 1, (2.0,)) for n in range(count)))
    verdicts = [d.verdict for d in compare(slow, fast).differences]
    assert verdicts == ["equal", "equal", verdict, verdict]


def test_cases_of_one_run_only_are_listed_and_not_compared() -> None:
    comparison = compare(run(*A.cases, case("x", 0.0)), run(case("y", 1.0), *B.cases))
    assert (comparison.only_a, comparison.only_b, comparison.common) == (("x",), ("y",), 3)
    assert by_metric(comparison)["m_vIoU"] == pytest.approx((0.4, 0.5, 0.1))


@pytest.mark.parametrize(
    "change",
    [
        {"expected": Timeline(((0, 11),), {5: Box(0.1, 0.1, 0.2, 0.2)})},
        {"expected": Timeline(((0, 10),), {5: Box(0.1, 0.1, 0.2, 0.3)})},
        {"query": "another one"},
        {"topic": "/other"},
    ],
)
def test_cases_with_other_annotations_are_named_and_not_compared(change: dict[str, object]) -> None:
    other = replace(B.cases[0], **change)  # type: ignore[arg-type]
    comparison = compare(A, run(other, *B.cases[1:]))
    assert (comparison.other_truth, comparison.common) == (("a",), 2)
    assert by_metric(comparison)["m_vIoU"] == pytest.approx((0.5, 0.6, 0.1))
    with pytest.raises(DataError, match="1 have other annotations"):
        compare(run(A.cases[0]), run(other))


def test_runs_without_a_common_case_are_rejected() -> None:
    with pytest.raises(DataError, match="0 of 1 and 1 cases"):
        compare(run(case("x", 0.0)), run(case("y", 0.0)))
    with pytest.raises(DataError, match="B has two cases of id 'y'"):
        compare(run(case("y", 0.0)), run(case("y", 0.0), case("y", 1.0)))


def test_figures_of_other_conventions_or_definitions_are_not_compared() -> None:
    others = [
        replace(METRICS[0], convention="HC-STVG"),
        replace(METRICS[1], transform=above(0.5)),
        *METRICS[2:],
        MeanMetric("square", "vIoU", transform=lambda v: v * v),
    ]
    other = replace(B, rows=tuple(rows_of("STVG", others, B.cases)))
    comparison = compare(A, other)
    assert {d.metric for d in comparison.differences} == {"false events", "delay p50"}
    assert comparison.not_compared == (
        "STVG m_vIoU (llava_st_ros): B has it by another convention only: HC-STVG",
        "STVG vIoU@0.3 (llava_st_ros): it is the share of vIoU > 0.3 in A, but the share of vIoU"
        " > 0.5 in B",
        "STVG m_vIoU (HC-STVG): A has it by another convention only: llava_st_ros",
        "STVG square (llava_st_ros): A has no such figure",
    )


def test_a_figure_that_does_not_follow_from_its_cases_is_not_compared() -> None:
    rows = (replace(B.rows[0], value=0.9), *B.rows[1:])
    comparison = compare(A, replace(B, rows=rows))
    (line,) = comparison.not_compared
    assert "the figure of B does not follow from the cases in its file" in line


def test_rows_of_a_task_that_no_case_has_are_of_all_cases() -> None:
    cases = [case("a", 0.5), replace(case("b", 0.1), task="TVG")]
    (stream,) = rows_of("stream", [MEAN], cases)
    (stvg,) = rows_of("STVG", [MEAN], cases[:1])
    assert [c.id for c in cases_of(stream, MEAN, cases)] == ["a", "b"]
    assert [c.id for c in cases_of(stvg, MEAN, cases)] == ["a"]


def test_changes_are_those_of_the_first_mean_largest_first() -> None:
    b = run(case("a", 0.1), case("b", 0.9), case("c", 0.6))
    changes = compare(A, b).changes
    assert [(c.id, c.metric) for c in changes] == [("b", "vIoU"), ("a", "vIoU")]
    assert [c.difference for c in changes] == pytest.approx([0.5, -0.1])


def test_settings_that_differ_are_named() -> None:
    about = {"model": "tiny", "versions": {"numpy": "1", "torch": "2"}}
    a = replace(A, about=about)
    b = replace(B, about={**about, "versions": {"numpy": "2", "torch": "2"}, "mode": "offline"})
    assert compare(a, b).settings == (("versions.numpy", "1", "2"), ("mode", "-", "offline"))
    assert flattened({"a": {"b": {"c": None}}}) == {"a.b.c": "None"}


def test_json_has_verdicts_and_no_nan() -> None:
    comparison = compare(run(case("a", 0.1)), run(case("a", 0.2)))
    assert any(math.isnan(d.a) for d in comparison.differences)
    plain = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert plain["differences"][0]["verdict"] == "too few"
    assert plain["differences"][3]["a"] is None
    assert plain["changes"][0]["difference"] == pytest.approx(0.1)


def test_the_command_prints_differences_and_changed_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = replace(case("[red]h", 0.1), query="[bold]q[/] \u202e")
    write_results(tmp_path / "a.json", run(*A.cases, hostile, case("x", 1.0), model="one"))
    write_results(
        tmp_path / "b.json",
        run(*B.cases, replace(hostile, values={"vIoU": 0.9}), model="two"),
    )
    command = ["eval", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "B - A on 4 common cases" in out
    assert "[red]h" in out and "[bold]q" in out
    assert "1 cases only in A: 'x'" in out
    assert "model: one in A, two in B" in out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["common"] == 4
    assert main(["eval", "compare", str(tmp_path / "a.json"), str(tmp_path)]) == 2
