"""The threads of each process of an evaluation."""

from __future__ import annotations

import pytest

from llava_st_ros.cli import run_arguments
from llava_st_ros.cli.run_arguments import threads_of_process
from llava_st_ros.errors import ConfigError


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_arguments, "sched_getaffinity", lambda _: set(range(8)))
    assert threads_of_process(None, 1) == 0  # the runtime's default
    assert [threads_of_process(None, workers) for workers in (2, 3, 8, 9)] == [4, 2, 1, 1]
    assert threads_of_process(3, 8) == 3
    with pytest.raises(ConfigError, match="--threads is 0; expected at least 1"):
        threads_of_process(0, 1)
