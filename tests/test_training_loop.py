"""The optimisation loop and the store of clips."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.training.clip_store import ClipStore, render_shards
from llava_st_ros.training.dense_alignment import patch_targets
from llava_st_ros.training.loop import (
    LoopConfig,
    TrainingError,
    optimisers,
    prefetched,
    rate_share,
    run,
)
from llava_st_ros.training.settings import read_settings
from llava_st_ros.training.simulator import simulate_clip, split_seed


def test_rate_warms_up_and_cools_down() -> None:
    config = LoopConfig(steps=1000, rate=1.0, warmup=10)
    assert rate_share(config, 0, 0.0) == pytest.approx(0.1)
    assert rate_share(config, 10, 0.0) == pytest.approx(1.0, abs=1e-3)
    assert rate_share(config, 1000, 0.0) == pytest.approx(0.02)


def test_rate_follows_the_clock_where_the_machine_is_slow() -> None:
    config = LoopConfig(steps=1000, rate=1.0, warmup=1, minutes=10.0)
    assert rate_share(config, 1, 10.0) == pytest.approx(0.02)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 8)
        self.inside = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.lm_head = nn.Linear(8, 5, bias=False)
        self.inner = nn.ModuleDict({"labels": nn.Linear(8, 3)})  # a head, wherever it stands

    def loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        x = self.words(torch.arange(5))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        logits = self.lm_head(torch.tanh(self.inside(x)))
        return nn.functional.cross_entropy(logits, torch.arange(5)), {}


def test_muon_takes_the_matrices_inside_and_adamw_the_rest() -> None:
    net = Net()
    net.inside.weight.requires_grad_(False)
    config = LoopConfig(steps=1, rate=0.01, matrix_rate=0.02)
    adamw, muon = optimisers([net, net.attention], config)
    matrices = [net.attention.in_proj_weight, net.attention.out_proj.weight]
    assert {id(p) for p in muon.param_groups[0]["params"]} == set(map(id, matrices))
    decayed, plain = (group["params"] for group in adamw.param_groups)
    assert {id(p) for p in decayed} == {
        id(net.words.weight),
        id(net.lm_head.weight),
        id(net.inner["labels"].weight),
    }
    assert {p.ndim for p in plain} == {1}
    count = sum(p.requires_grad for p in net.parameters())
    assert len(matrices) + len(decayed) + len(plain) == count
    (alone,) = optimisers([net], LoopConfig(steps=1, rate=0.01))
    assert sum(len(group["params"]) for group in alone.param_groups) == count


def test_both_optimisers_follow_the_schedule_and_learn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    before = net.attention.in_proj_weight.detach().clone()
    config = LoopConfig(steps=60, rate=0.02, matrix_rate=0.02, warmup=5)
    run("net", [net], net.loss, config, tmp_path / "log")
    assert net.loss()[0] < 0.4  # a guess: 1.6
    assert not torch.allclose(net.attention.in_proj_weight, before)
    still = LoopConfig(steps=3, rate=0.0, matrix_rate=0.0)
    after = net.attention.in_proj_weight.detach().clone()
    run("still", [net], net.loss, still, tmp_path / "log")
    assert torch.equal(net.attention.in_proj_weight, after)


def test_a_loop_learns_and_logs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    wanted = torch.tensor([[1.0, -2.0, 0.5]])

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(64, 3)
        return (layer(x) - x @ wanted.T).square().mean(), {"part": 1.0}

    log = tmp_path / "log.jsonl"
    config = LoopConfig(steps=300, rate=0.05, warmup=5, weight_decay=0.0)
    assert run("line", [layer], loss, config, log) == 300
    assert torch.allclose(layer.weight, wanted, atol=0.05)
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["stage"] == "line" and last["step"] == 300 and last["part"] == 1.0


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)

    factors = iter([1.0, 1.0, 1.0, math.nan])

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        return layer(torch.ones(1, 1)).sum() * next(factors), {}

    with pytest.raises(TrainingError, match="stage bad, step 3"):
        run("bad", [layer], loss, LoopConfig(steps=9, rate=0.1), tmp_path / "log")


def test_clips_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    shards = list(render_shards(tmp_path, "train", 2, num_frames=5, size=48, workers=1))
    assert len(shards) == 1 and not list(tmp_path.glob("*.part"))
    store = ClipStore(tmp_path)
    assert len(store) == 2
    clip, again = store[1], simulate_clip(split_seed("train", 1), num_frames=5, size=48)
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.boxes, again.boxes, equal_nan=True)
    assert clip.events == again.events and clip.objects == again.objects
    # A second run renders nothing anew.
    before = (shards[0] / "frames.npy").stat().st_mtime_ns
    list(render_shards(tmp_path, "train", 2, num_frames=5, size=48, workers=1))
    assert (shards[0] / "frames.npy").stat().st_mtime_ns == before


def test_a_store_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips in"):
        ClipStore(tmp_path)
    shard = tmp_path / "train-000000"
    shard.mkdir()
    (shard / "frames.npy").write_bytes(b"\x93NUMPY")
    (shard / "clips.json").write_text("[]")
    with pytest.raises(DataError, match="train-000000"):
        ClipStore(tmp_path)


def test_patches_know_the_smallest_object_over_them() -> None:
    nan = [math.nan] * 4
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6], nan], dtype=np.float32)
    names = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    classes, targets = patch_targets(boxes, names, 9)
    assert classes.shape == (81, 3) and targets.shape == (81, 4)
    assert classes[40].tolist() == [3, 3, 3]  # the middle patch: the small object, names from 1
    assert np.allclose(targets[40], boxes[1])
    assert classes[0].tolist() == [2, 2, 2] and not (classes == 4).any()


def test_an_object_smaller_than_a_patch_still_has_one() -> None:
    boxes = np.array([[0.0, 0.0, 0.02, 0.02]], dtype=np.float32)
    classes, _ = patch_targets(boxes, np.array([[0, 0, 0]]), 9)
    assert classes[0, 0] == 1 and (classes[:, 0] > 0).sum() == 1


def test_settings_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="without"):
        read_settings(path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_settings(tmp_path / "none.yaml")
    assert read_settings(Path("config/training/tiny.yaml"))["model"]["compat"] == "paper"


def test_batches_come_in_their_order() -> None:
    counter = iter(range(100))
    batches = prefetched(lambda: next(counter))
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    batches.close()
