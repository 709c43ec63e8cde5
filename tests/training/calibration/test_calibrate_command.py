"""``llava-st train calibrate``: what it writes, and what it rejects."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from llava_st_ros.backends import load_backend
from llava_st_ros.calibration import Calibration
from llava_st_ros.checkpoint_config import read_checkpoint_json, read_config
from llava_st_ros.cli import train_calibrate as command
from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.evaluation.match_samples import CLIPS, STREAMS
from llava_st_ros.model.checkpoint import load_checkpoint, save_checkpoint
from llava_st_ros.records import Modality
from support.match_samples import drawn


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples instead of the answers of a model."""
    found = [
        sample
        for origin in (STREAMS, CLIPS)
        for modality in Modality
        for sample in drawn(1_000, modality, origin=origin)
    ]
    monkeypatch.setattr(command, "_samples", lambda args: found)


def test_a_calibrated_checkpoint_is_the_same_but_for_its_probabilities(
    samples, random_checkpoint, tmp_path, capsys
) -> None:
    out = tmp_path / "calibrated"
    png = tmp_path / "reliability.png"
    assert run("--checkpoint", random_checkpoint, "--out", out, "--diagram", png) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert "ECE" in table and table.count("video") == table.count("image") == 4
    assert table.count("standing") == table.count("one-shot") == 4
    assert {p.name for p in out.iterdir()} == {p.name for p in random_checkpoint.iterdir()}
    for path in out.iterdir():
        if path.name != "config.json":
            assert path.read_bytes() == (random_checkpoint / path.name).read_bytes()
    model = load_backend(out)[0].describe().model
    assert model.calibration.standing.video.match.scale == pytest.approx(0.5, rel=0.2)
    before = load_backend(random_checkpoint)[0].describe().model
    assert before.calibration == Calibration()
    # Weights that are trained further are not those that it was fitted for.
    checkpoint = load_checkpoint(out)
    save_checkpoint(tmp_path / "trained", checkpoint.model, checkpoint.config, None)
    values = read_checkpoint_json(tmp_path / "trained" / "config.json")
    assert read_config(values, {}).calibration == Calibration()


def test_a_checkpoint_can_be_calibrated_in_place_and_again(
    samples, random_checkpoint, tmp_path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    assert run("--checkpoint", folder, "--out", folder) == 0
    first = (folder / "config.json").read_bytes()
    assert run("--checkpoint", folder, "--out", folder) == 0
    assert (folder / "config.json").read_bytes() == first
    assert json.loads(first)["llava_st"]["calibration"]["standing"]["video"]["match"]["scale"] > 0


def test_what_cannot_be_written_is_an_error_before_the_model_runs(
    random_checkpoint, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for arguments, problem in (
        (("--out", other), "already exists"),
        (("--out", tmp_path / "new", "--clips", 0), "--clips is 0"),
        (("--out", tmp_path / "new", "--diagram", tmp_path / "d.svg"), r"expected a \.png"),
        (("--out", tmp_path / "new", "--split", "validation", "tset"), "'tset'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            run("--checkpoint", random_checkpoint, *arguments)
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="no folder"):
        run("--checkpoint", tmp_path / "nowhere", "--out", other)
    (other / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="engine directory"):
        run("--checkpoint", other, "--out", tmp_path / "new")
