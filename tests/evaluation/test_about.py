"""What ran, in the results: without names of users or of home folders."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

from llava_st_ros.evaluation import about
from llava_st_ros.evaluation.about import about_node, about_run


def test_doctests() -> None:
    assert doctest.testmod(about).failed == 0


def test_no_fact_names_the_home_folder(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    (home / "model").symlink_to(random_checkpoint)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "argv", ["llava-st", "eval", "bag", f"--out={home}/runs"])
    model = home / "model"
    run = about_run("benchmark", model, seconds=1.04, media=str(home / "media"), samples=3)
    node = about_node("bag, node", "/grounding", {"model": str(model)}, seconds=1.04)
    assert "somebody" not in str((run, node))
    assert run["command"] == node["command"] == "llava-st eval bag '--out=~/runs'"
    assert (run["model"], run["media"], run["samples"]) == ("~/model", "~/media", 3)
    assert (node["model"], node["backend"], node["precision"]) == ("~/model", "unknown", "unknown")
    assert (run["seconds"], run["backend"], len(run["model_sha256"])) == (1.0, "torch", 64)
