"""The gate: what passes, what fails, and why."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.gate import GateLimits, GateRow, gate
from llava_st_ros.evaluation.metric_definitions import MetricDefinition
from llava_st_ros.evaluation.results import (
    Case,
    MetricRow,
    RunResults,
    Timeline,
    write_results,
)

CASES = (Case("a", "bag", "STVG", "q", expected=Timeline(((0, 1),))), Case("b", "bag", "STVG", "q"))


def row(name: str, value: float, **fields: object) -> MetricRow:
    values = {"cases": 2, "convention": "ours", **fields}
    return MetricRow("STVG", name, value, value, value, **values)  # type: ignore[arg-type]


def results(*rows: MetricRow) -> RunResults:
    return RunResults({}, CASES, rows)


def judged(new: MetricRow, old: MetricRow, limits: GateLimits | None = None) -> GateRow:
    (found,) = gate(results(new), results(old), limits or GateLimits())
    return found


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        (0.5, 0.49, ""),  # exactly the limit, whatever binary fractions make of it
        (0.5, 0.489, "drops by 0.011, more than 0.01"),
        (0.5, 0.9, ""),
        (math.nan, 0.5, ""),
        (math.nan, math.nan, ""),
        (0.5, math.nan, "undefined"),
    ],
)
def test_a_share_may_drop_by_the_limit(old: float, new: float, failure: str) -> None:
    assert judged(row("m_vIoU", new), row("m_vIoU", old)).failure == failure


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        (0.1, 0.11, ""),
        (0.1, 0.12, "rises by 0.02, more than 0.01"),
        (0.1, 0.0, ""),
    ],
)
def test_a_share_of_errors_may_rise_by_the_limit(old: float, new: float, failure: str) -> None:
    pair = (row("false", value, lower_is_better=True) for value in (new, old))
    assert judged(*pair).failure == failure


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        (2.0, 2.2, ""),
        (2.0, 2.3, "rises by 0.3 s (15 %), more than 10 %"),
        (2.0, 1.0, ""),
        (0.0, 0.0, ""),
        (0.0, 0.1, "rises by 0.1 s, more than 10 %"),
    ],
)
def test_a_delay_may_grow_by_a_share(old: float, new: float, failure: str) -> None:
    pair = (row("delay p50", value, unit="s", lower_is_better=True) for value in (new, old))
    assert judged(*pair).failure == failure


def test_a_rate_of_which_more_is_better_may_fall_by_a_share() -> None:
    assert not judged(row("rate", 9.0, unit="1/s"), row("rate", 10.0, unit="1/s")).failure
    failed = judged(row("rate", 8.0, unit="1/s"), row("rate", 10.0, unit="1/s"))
    assert failed.failure == "drops by 2 1/s (20 %), more than 10 %"


def test_a_missing_figure_fails() -> None:
    (missing,) = gate(results(row("other", 1.0)), results(row("m_vIoU", 0.5)), GateLimits())
    assert missing.failure == "missing" and math.isnan(missing.value)
    renamed = row("m_vIoU", 0.9, convention="HC-STVG")
    assert judged(renamed, row("m_vIoU", 0.5)).failure == "missing; the run has it by HC-STVG"


def test_a_figure_that_is_computed_otherwise_fails() -> None:
    old, new = (MetricDefinition("mean", "vIoU", above=share) for share in (0.3, 0.5))
    failed = judged(row("R", 0.9, definition=new), row("R", 0.5, definition=old))
    assert failed.failure == (
        "it is the share of vIoU > 0.5, but the share of vIoU > 0.3 in the baseline"
    )


def test_missing_cases_are_noted() -> None:
    baseline = results(row("m_vIoU", 0.5))
    (found,) = gate(replace(baseline, cases=CASES[:1]), baseline, GateLimits())
    assert (found.failure, found.note) == ("", "1 cases of the baseline are missing")


def test_fewer_cases_fail_unless_allowed() -> None:
    pair = row("m_vIoU", 0.5, cases=1), row("m_vIoU", 0.5)
    assert judged(*pair).failure == "1 cases, 2 in the baseline"
    assert not judged(*pair, GateLimits(fewer_cases=True)).failure
    assert not judged(row("m_vIoU", 0.5, cases=3), row("m_vIoU", 0.5)).failure


def test_other_annotations_or_other_data_are_bad_input() -> None:
    baseline = results(row("m_vIoU", 0.5))
    moved = replace(CASES[0], expected=Timeline(((0, 2),)))
    with pytest.raises(DataError, match=r"1 cases have another query or other annotations.*'a'"):
        gate(replace(baseline, cases=(moved, CASES[1])), baseline, GateLimits())
    with pytest.raises(DataError, match="no case in common"):
        gate(replace(baseline, cases=(Case("x", "", "STVG", ""),)), baseline, GateLimits())
    with pytest.raises(DataError, match="the run has two cases of id 'a'"):
        gate(replace(baseline, cases=(*CASES, CASES[0])), baseline, GateLimits())
    with pytest.raises(DataError, match="the baseline has no figure"):
        gate(baseline, results(), GateLimits())


def test_named_metrics_are_judged_alone() -> None:
    rows = row("m_vIoU", 0.5), row("m_tIoU", 0.5)
    worse = results(row("m_vIoU", 0.1), row("m_tIoU", 0.5))
    for name in ("m_tIoU", "STVG/m_tIoU"):
        (only,) = gate(worse, results(*rows), GateLimits(), [name])
        assert not only.failure
    with pytest.raises(ConfigError, match="no metric 'vIoU'; it has STVG/m_tIoU, STVG/m_vIoU"):
        gate(worse, results(*rows), GateLimits(), ["vIoU"])


@pytest.mark.parametrize("limit", [-0.1, math.nan, math.inf])
def test_limits_are_numbers(limit: float) -> None:
    with pytest.raises(ConfigError, match="--max-drop is"):
        GateLimits(max_drop=limit)
    with pytest.raises(ConfigError, match="--max-increase is"):
        GateLimits(max_increase=limit)


def test_the_command_exits_with_1_and_names_the_failing_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_results(old, results(row("m_vIoU", 0.5), row("m_tIoU", 0.5)))
    write_results(new, results(row("m_vIoU", 0.4), row("m_tIoU", 0.6)))
    command = ["eval", "gate", str(new), "--baseline", str(old)]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "FAILED STVG m_vIoU (ours): drops by 0.1, more than 0.01" in out
    assert "1 of 2 figures passed" in out
    assert main([*command, "--max-drop", "0.2"]) == 0
    assert main([*command, "--json"]) == 1
    capsys.readouterr()
    assert main([*command, "--json", "--metric", "m_tIoU"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    write_results(new, results(row("m_vIoU", math.nan), row("m_tIoU", 0.6)))
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["rows"][0]["value"] is None
    assert main(["eval", "gate", str(new), "--baseline", str(tmp_path / "none.json")]) == 2
    assert main([*command, "--max-drop", "nan"]) == 2
