"""``llava-st eval streams`` with the renderer and a random checkpoint."""

from __future__ import annotations

import argparse

import pytest

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.cli import eval_streams as command
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.results import read_results
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


def test_invalid_arguments_are_rejected(random_checkpoint) -> None:
    model = ("--model", random_checkpoint)
    for arguments, problem in (
        (("--n", 0), "--n is 0"),
        (("--queries", 0), "0 queries"),
        (("--seconds", "5..60"), "5 to 60 s"),
        (("--seconds", "60..30"), "60 to 30 s"),
    ):
        with pytest.raises(ConfigError, match=problem):
            run("test", *arguments, *model)
    with pytest.raises(ConfigError, match="'tset'"):
        run("tset", "--n", 1, *model)


def test_a_length_is_one_number_or_two(capsys) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(["test", "--seconds", "24"]).seconds == (24.0, 24.0)
    assert parser.parse_args(["test", "--seconds", "12.5..30"]).seconds == (12.5, 30.0)
    for text in ("30-60", "..60", "30..", "nan"):
        with pytest.raises(SystemExit):
            parser.parse_args(["test", "--seconds", text])
        assert "is not like 30..60" in capsys.readouterr().err
