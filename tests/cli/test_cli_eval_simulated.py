"""``llava-st eval simulated`` on simulated clips, with a random checkpoint."""

from __future__ import annotations

import argparse
import json

import pytest

from llava_st_ros.cli import eval_simulated as command
from llava_st_ros.errors import ConfigError

pytestmark = pytest.mark.renderer


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


def test_report_contains_every_task_and_the_blind_baseline(
    random_checkpoint, tmp_path, capsys
) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    arguments = ("test", "--n", 2, "--model", random_checkpoint)
    assert run(*arguments, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["about"]["split"], report["about"]["clips"]) == ("test", 2)
    rows = {(row["task"], row["metric"]): row for row in report["metrics"]}
    for key in (("REC", "Acc@0.5"), ("STVG", "m_vIoU"), ("STVG", "m_tIoU"), ("TVG", "R1@0.5")):
        row = rows[key]
        assert row["cases"] == 2
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert 0 <= row["blind"] <= 1
    assert rows["STVG", "parsed"]["value"] == 1
    # The same questions without the baseline give the same values.
    assert run(*arguments, "--json", "--no-blind", "--tasks", "stvg") == 0
    again = json.loads(capsys.readouterr().out)["metrics"]
    assert {row["task"] for row in again} == {"STVG", "answerable"}
    assert all(row["blind"] is None for row in again)
    for row in again:
        if row["task"] == "STVG":
            assert row["value"] == rows["STVG", row["metric"]]["value"]
    assert run(*arguments, "--n", 1, "--no-blind", "--tasks", "REC") == 0
    assert "Acc@0.5" in capsys.readouterr().out


def test_two_processes_give_the_scores_of_one(random_checkpoint, capsys) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    arguments = ("test", "--n", 7, "--model", random_checkpoint, "--tasks", "REC")
    metrics = []
    for workers in (1, 2):
        assert run(*arguments, "--json", "--no-blind", "--workers", workers) == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
    assert metrics[0] == metrics[1]
    assert metrics[0][0]["cases"] == 7


def test_invalid_arguments_are_rejected(random_checkpoint) -> None:
    model = ("--model", random_checkpoint)
    with pytest.raises(ConfigError, match="--n is 0"):
        run("test", "--n", 0, *model)
    with pytest.raises(ConfigError, match="--workers is 0"):
        run("test", "--workers", 0, *model)
    with pytest.raises(ConfigError, match="'MVG'"):
        run("test", "--tasks", "REC,MVG", *model)
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    with pytest.raises(ConfigError, match="'tset'"):
        run("tset", "--n", 1, *model)
