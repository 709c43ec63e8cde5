"""Samples of clips and streams, by a random checkpoint."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from llava_st_ros.errors import BackendError
from llava_st_ros.evaluation import match_samples
from llava_st_ros.evaluation.simulated_streams import StreamSplit
from llava_st_ros.training.calibration.samples import SampleSource, collect_samples

pytestmark = pytest.mark.renderer


def test_samples_of_every_clip_and_stream_in_order(random_checkpoint, tmp_path) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    split = StreamSplit("validation", (10.0, 10.0), queries=2, fps=4.0, size=48)
    source = SampleSource(random_checkpoint, (split,), 1, 1, tmp_path)
    done: list[int] = []
    samples = collect_samples(source, on_done=done.append)
    assert sum(done) == source.total == 2
    counts = Counter((sample.origin, sample.source) for sample in samples)
    assert list(counts) == [("clips", "validation clip 0"), ("streams", "validation stream 0")]
    assert counts["clips", "validation clip 0"] == 5


def test_windows_of_streams_are_a_period_apart(random_checkpoint, tmp_path, monkeypatch) -> None:
    """A window that follows half a period after another would count what is doubtful twice."""
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    ends: dict[str, list[int]] = {}
    record = match_samples.make_sample

    def make_sample(origin, source, answer, *rest):
        ends.setdefault(answer.query.id, []).append(answer.window[-1])
        return record(origin, source, answer, *rest)

    monkeypatch.setattr(match_samples, "make_sample", make_sample)
    split = StreamSplit("validation", (12.0, 12.0), queries=3, fps=4.0, size=48)
    assert collect_samples(SampleSource(random_checkpoint, (split,), 0, 1, tmp_path))
    # The last window is where the stream ends.
    steps = [b - a for found in ends.values() for a, b in pairwise(sorted(found)[:-1])]
    assert steps and min(steps) >= 1_000_000_000


def test_a_stream_that_cannot_be_recorded_ends_the_run(random_checkpoint, tmp_path) -> None:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    (tmp_path / "file").write_text("", encoding="utf-8")
    split = StreamSplit("validation", (10.0, 10.0), queries=2, fps=4.0, size=48)
    source = SampleSource(random_checkpoint, (split,), 0, 1, tmp_path / "file")
    with pytest.raises(BackendError, match=r"validation, stream 0: .*cannot write"):
        collect_samples(source)
