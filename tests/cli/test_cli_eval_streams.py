"""``llava-st eval streams`` with the renderer and a random checkpoint."""

from __future__ import annotations

import argparse
import json
import math

import pytest

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.cli import eval_streams as command
from llava_st_ros.errors import CheckpointError, ConfigError, LlavaStError
from llava_st_ros.evaluation import setting_sweep, simulated_streams
from llava_st_ros.evaluation.results import MetricRow, read_results
from llava_st_ros.evaluation.simulated_streams import StreamSplit, record_streams


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


@pytest.mark.renderer
def test_streams_are_evaluated_as_bags_are(random_checkpoint, tmp_path) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    store = tmp_path / "store"
    model = ("--model", random_checkpoint, "--threads", 1)
    arguments = (
        "validation",
        "--n",
        1,
        "--seconds",
        "10..11",
        "--queries",
        3,
        "--period",
        60,
        *model,
    )
    assert run(*arguments, "--store", store, "--out", tmp_path / "run") == 0
    results = read_results(tmp_path / "run")
    assert results.about["mode"] == "streams, offline"
    assert results.about["split"] == "validation"
    (bag,) = (store / StreamSplit("validation", (10.0, 11.0), queries=3).folder).iterdir()
    assert 10 <= results.about["footage_seconds"] <= 11
    truth = read_annotations(annotation_path(bag))
    assert [case.query for case in results.cases] == [query.text for query in truth.queries]
    never = [query for query in truth.queries if query.no_match]
    assert len(truth.queries) == 3 and len(never) == 1
    rows = {(row.task, row.metric): row for row in results.rows}
    assert rows["stream", "answered though nothing matches"].cases >= 1


@pytest.mark.renderer
def test_what_a_run_over_fewer_streams_recorded_is_used_by_one_over_more(tmp_path) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    split = StreamSplit("test", (10.0, 10.0), fps=2.0, size=48)
    (first,) = record_streams(split, range(1), tmp_path)
    before = {path: path.read_bytes() for path in first.iterdir()}
    found: list[int] = []
    assert record_streams(split, range(2), tmp_path, on_recorded=found.append)[0] == first
    assert found == [1, 1]
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert sorted(path.name for path in first.parent.iterdir()) == ["0000", "0001"]


def test_streams_of_another_simulator_are_in_another_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(simulated_streams, "files", lambda package: tmp_path)
    folders = []
    for source in ("x = 1", "x = 1", "x = 2"):
        (tmp_path / "scenes.py").write_text(source, encoding="utf-8")
        simulated_streams._sources_checksum.cache_clear()
        folders.append(StreamSplit("test").folder)
    simulated_streams._sources_checksum.cache_clear()
    assert folders[0] == folders[1] != folders[2]


def test_invalid_arguments_are_rejected(random_checkpoint) -> None:
    model = ("--model", random_checkpoint)
    for arguments, problem in (
        (("--n", 0), "--n is 0"),
        (("--queries", 0), "0 queries"),
        (("--seconds", "5..60"), "5 to 60 s"),
        (("--seconds", "60..30"), "60 to 30 s"),
        (("--vary", "no_match_threshold=0.5,1.5"), "no_match_threshold is 1.5"),
        (("--vary", "no_match_threshold=NaN"), "no_match_threshold is nan"),
        (("--vary", "evidence_on=0.1"), "evidence_off"),
        (("--vary", "window=3"), "the settings are"),
        (("--period", "nan"), "the period is nan"),
        (("--period", "0"), "the period is 0"),
        (("--track-rate", -1), "--track-rate is -1"),
    ):
        with pytest.raises(LlavaStError, match=problem):
            run("test", *arguments, *model)
    with pytest.raises(ConfigError, match="'tset'"):
        run("tset", "--n", 1, *model)


def test_a_folder_without_a_model_is_rejected_before_streams_are_recorded(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(simulated_streams, "record_streams", lambda *args: pytest.fail("recorded"))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        run("test", "--n", 1, "--model", tmp_path)


def test_figures_of_every_combination_are_printed_and_written(
    random_checkpoint, tmp_path, capsys, monkeypatch
) -> None:
    def sweep_bags(jobs, worker, changes, workers, on_progress):
        assert [(job.bag.name, job.track_rate) for job in jobs] == [("0000", 0), ("0001", 0)]
        values = [10 * c["confirmations"] + c["evidence_on"] for c in changes]
        return [[row("STVG", v), row("stream", math.nan)] for v in values]

    def row(task: str, value: float) -> MetricRow:
        return MetricRow(task, "final vIoU", value, value, value, 2)

    bags = [tmp_path / "0000", tmp_path / "0001"]
    monkeypatch.setattr(simulated_streams, "record_streams", lambda *args: bags)
    monkeypatch.setattr(setting_sweep, "sweep_bags", sweep_bags)
    levels = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
    values = ",".join(map(str, levels))
    varied = ("--vary", "confirmations=1,2", "--vary", f"evidence_on={values}")
    out = ("--out", tmp_path / "out")
    options = (*varied, *out, "--track-rate", 0, "--model", random_checkpoint)
    assert run("test", "--n", 2, *options) == 0
    table = capsys.readouterr().out
    assert "confirmations, evidence_on on 2 streams" in table
    for count in (10, 20):  # in several tables, so that no number is cut
        for value in levels:
            assert f"{count + value:.4g}" in table
    written = json.loads((tmp_path / "out" / "variants.json").read_text(encoding="utf-8"))
    assert [v["settings"] for v in written["variants"]] == [
        {"confirmations": count, "evidence_on": value} for count in (1, 2) for value in levels
    ]
    assert written["variants"][-1]["figures"] == {
        "STVG/final vIoU": 20.8,
        "stream/final vIoU": None,
    }


def test_a_length_is_one_number_or_two(capsys) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(["test", "--seconds", "24"]).seconds == (24.0, 24.0)
    assert parser.parse_args(["test", "--seconds", "12.5..30"]).seconds == (12.5, 30.0)
    for text in ("30-60", "..60", "30..", "nan"):
        with pytest.raises(SystemExit):
            parser.parse_args(["test", "--seconds", text])
        assert "is not like 30..60" in capsys.readouterr().err
