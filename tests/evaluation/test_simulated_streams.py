"""Recording of simulated streams: what is missing, and what another process has done."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.simulated import simulated_questions
from llava_st_ros.evaluation.simulated_streams import StreamSplit
from llava_st_ros.simulation import bag_writer, streams, video_queries

pytestmark = pytest.mark.renderer

SPLIT = StreamSplit("test")


def test_a_simulator_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llava_st_ros.simulation.simulator", None)
    for use in (
        lambda: SPLIT.record(tmp_path, 0),
        lambda: simulated_questions("test", range(1), SimpleNamespace()),
    ):
        with pytest.raises(DataError, match="the simulator cannot be imported") as raised:
            use()
        assert raised.value.remedy == "install mujoco, with EGL or OSMesa"


def test_only_a_bag_of_another_process_excuses_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(video: object, path: Path, queries: object) -> None:
        raise DataError(f"cannot write {path}: full")

    monkeypatch.setattr(bag_writer, "write_bag", fail)
    monkeypatch.setattr(streams, "simulate_stream", lambda *arguments, **settings: None)
    monkeypatch.setattr(video_queries, "sample_queries", lambda *arguments: ())
    with pytest.raises(DataError, match="cannot write"):
        SPLIT.record(tmp_path, 0)
    SPLIT.bag(tmp_path, 0).mkdir(parents=True)
    SPLIT.record(tmp_path, 0)
