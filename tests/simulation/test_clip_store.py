"""The store of rendered clips."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.simulation.clip_store import ClipStore, render_shards
from llava_st_ros.simulation.simulator import simulate_clip, split_seed
from support.random_videos import random_video, store_random_videos

pytestmark = pytest.mark.renderer


def test_stored_clips_equal_the_rendered_ones(tmp_path: Path) -> None:
    def render(_: int) -> list[Path]:
        return list(render_shards(tmp_path, "train", 2, num_frames=5, size=48, workers=1))

    with ThreadPoolExecutor(2) as pool:  # two at once: one waits for the other
        shards, others = pool.map(render, range(2))
    assert shards == others
    assert {path.name for path in tmp_path.iterdir()} == {"lock", *(s.name for s in shards)}
    assert len(shards) == 1
    store = ClipStore(tmp_path)
    assert len(store) == 2
    clip, again = store[1], simulate_clip(split_seed("train", 1), num_frames=5, size=48)
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.boxes, again.boxes, equal_nan=True)
    assert clip.events == again.events and clip.objects == again.objects
    # A second run renders nothing.
    before = (shards[0] / "frames.npy").stat().st_mtime_ns
    assert render(0) == shards
    assert (shards[0] / "frames.npy").stat().st_mtime_ns == before


def test_empty_or_damaged_store_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips in"):
        ClipStore(tmp_path)
    shard = tmp_path / "train-000000"
    shard.mkdir()
    (shard / "frames.npy").write_bytes(b"\x93NUMPY")
    (shard / "clips.json").write_text("[]")
    with pytest.raises(DataError, match="train-000000"):
        ClipStore(tmp_path)


def test_incomplete_shards_of_killed_processes_are_ignored(tmp_path: Path) -> None:
    list(render_shards(tmp_path, "train", 1, num_frames=5, size=48, workers=1))
    for name in (".train-000050-begun-by-1", "train-000050.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clips.json").write_text("[")
    assert len(ClipStore(tmp_path)) == 1


def test_objects_of_clips_without_proportions_have_equal_ones(tmp_path: Path) -> None:
    store_random_videos(tmp_path, 1, num_frames=10, size=8)
    path = tmp_path / "train-000000" / "clips.json"
    records = json.loads(path.read_text())
    for values in records[0]["objects"]:
        del values["proportions"]
    path.write_text(json.dumps(records))
    assert ClipStore(tmp_path)[0].objects == random_video(0).objects
