"""docs/reliability.md: each promise names a test that exists, and its counts are those measured."""

from __future__ import annotations

import ast
import json
import re

import pytest

from support.paths import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
PROMISES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FUZZ = ROOT / "benchmarks/results/fuzz.json"


def test_every_row_of_a_promise_names_a_test() -> None:
    promises = PAGE.split("## Bounds")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| ---", "| fault"))]
    assert len(rows) > 80
    assert [row for row in rows if "::test_" not in row.split("|")[-2]] == []


@pytest.mark.parametrize(("path", "name"), PROMISES)
def test_the_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


FAULT_TESTS = [
    (path.relative_to(ROOT).as_posix(), node)
    for path in sorted((ROOT / "tests/faults").glob("test_*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.mark.parametrize(("path", "test"), FAULT_TESTS, ids=[test.name for _, test in FAULT_TESTS])
def test_a_test_of_a_fault_says_what_it_shows_and_is_on_the_page(
    path: str, test: ast.FunctionDef
) -> None:
    lines = (ast.get_docstring(test) or "").splitlines()
    labels = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert labels == ["Injected", "Published", "Logged"]
    assert (path, test.name) in PROMISES


def test_the_counts_of_fuzzing_are_those_of_the_stored_run() -> None:
    stored = json.loads(FUZZ.read_text(encoding="utf-8"))
    for result in stored["results"]:
        row = [result[key] for key in ("surface", "tried", "accepted", "rejected", "failed")]
        assert "| " + " | ".join(f"{v:,}" if isinstance(v, int) else v for v in row) + " |" in PAGE
        assert result["failed"] == 0
    assert f"seed {stored['seed']}" in PAGE
