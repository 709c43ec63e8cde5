"""Commands without torch: those that need none run, the others name the extra in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.paths import ROOT
from support.without_torch import RUN

Llava = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llava(tmp_path: Path) -> Llava:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def problem_of(run: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says what is wrong with its input."""
    assert run.returncode == 2
    (line,) = (line for line in run.stderr.splitlines() if line.startswith("llava-st: "))
    assert "Traceback" not in run.stderr
    return line


def test_the_published_models_plan_needs_no_torch(llava: Llava) -> None:
    run = llava("export", "plan", "--precision", "int4", "--target", "jetson_orin_jp6", "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    # 7.6 billion parameters: half a byte each in the layers, two in embedding table and head.
    assert 4.5e9 < report["weights"]["language"] < 6e9
    assert set(report["boards"]) == {
        "orin_nano_8gb", "orin_nx_16gb", "agx_orin_32gb", "agx_orin_64gb"
    }  # fmt: skip
    wrong = llava("export", "plan", "--precision", "int3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "precision is 'int3'" in wrong.stderr or "invalid choice" in wrong.stderr


@pytest.mark.slow
def test_an_engine_directory_is_inspected_runs_and_is_evaluated(
    llava: Llava, random_engine: Path, tmp_path: Path
) -> None:
    run = llava("export", "inspect", random_engine)
    assert run.returncode == 0, run.stderr
    assert "pip install '.[export]'" in run.stdout + run.stderr  # for the list of graphs
    run = llava(
        "ground", "--model", random_engine, "--bag", ROOT / "demo" / "bag",
        "--query", "the green ball", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)
    run = llava("eval", "bag", ROOT / "demo" / "bag", "--model", random_engine, "--out", "results")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "results" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("export", "plan", "--model", ROOT / "models" / "llava-st-tiny"), "[export]"),
        (("export", "--out", "x"), "[export]"),
        (("train", "plan"), "[training]"),
        (("train", "merge", "a", "b", "--out", "c"), "[training]"),
        (("train", "average", "a", "b", "--out", "c"), "[training]"),
        (("node",), "source your ROS 2 workspace"),
        (
            ("ground", "--model", ROOT / "models" / "llava-st-tiny", "--bag", ROOT / "demo" / "bag",
             "--query", "the green ball: it rolls"),
            "pip install torch transformers",
        ),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_is_missing_is_named_in_one_line(
    llava: Llava, arguments: tuple[str | Path, ...], extra: str
) -> None:
    line = problem_of(llava(*arguments))
    assert extra in line
    if extra.startswith("["):
        assert line.startswith(f"llava-st: a package of llava_st_ros{extra} cannot be imported: ")
        assert line.endswith(f"; pip install '.{extra}' in the source folder")


@pytest.mark.slow
def test_without_the_simulator_an_engine_directory_is_not_evaluated_on_it(
    llava: Llava, random_engine: Path
) -> None:
    run = llava("eval", "simulated", "validation", "--n", "1", "--model", random_engine)
    assert "mujoco" in problem_of(run)
