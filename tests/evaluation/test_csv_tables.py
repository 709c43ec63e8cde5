"""Figures and cases as CSV: RFC 4180, full precision, no formulas."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from llava_st_ros.evaluation.csv_tables import cases_csv, metrics_csv
from llava_st_ros.evaluation.results import Case, MetricRow
from support.report_runs import hostile_run


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_numbers_have_full_precision_and_undefined_ones_are_empty() -> None:
    row = MetricRow("STVG", "m_vIoU", 1 / 3, -1e-17, math.nan, 7, "ours", lower_is_better=True)
    text = metrics_csv([row, replace(row, metric='a "b",\nc')])
    assert text.count("\r\n") == 3 and text.endswith("\r\n")
    first, second = parsed(text)
    assert float(first["value"]) == 1 / 3 and first["low"] == "-1e-17"
    assert (first["high"], first["blind"], first["lower_is_better"]) == ("", "", "true")
    assert second["metric"] == 'a "b",\nc'


def test_cases_have_a_column_for_every_value() -> None:
    a = Case("a", "bag", "STVG", "q", {"viou": 0.1}, {"false": (1.0, 2.0)}, {"delay": (-1.5, 2.0)})
    b = Case("b", "bag", "TVG", "q", {"tiou": 0.2}, problems=("one", "two"))
    first, second = parsed(cases_csv([a, b]))
    assert (first["viou"], first["tiou"], second["viou"]) == ("0.1", "", "")
    assert (first["false/numerator"], first["false/denominator"]) == ("1.0", "2.0")
    assert (first["delay/samples"], second["delay/samples"]) == ("-1.5 2.0", "")
    assert second["problems"] == "one | two"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_text_is_no_formula(text: str) -> None:
    (row,) = parsed(cases_csv([Case("a", "bag", "STVG", text)]))
    assert row["query"] == f"'{text}"


def test_hostile_texts_are_read_back() -> None:
    run = hostile_run()
    rows = parsed(cases_csv(run.cases))
    assert len(rows) == len(run.cases)
    assert b"\0" not in cases_csv(run.cases).encode("utf-8")
    for row, case in zip(rows, run.cases):
        if "\0" not in case.query and not case.query.startswith("="):
            assert row["query"] == case.query
    assert len(parsed(metrics_csv(run.rows))) == len(run.rows)
