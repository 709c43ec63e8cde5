"""The optimization loop, its batches and optimizers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.training.loop import loop
from llava_st_ros.training.loop.batches import Shard, default_workers, prefetch, to_device
from llava_st_ros.training.loop.errors import TrainingError
from llava_st_ros.training.loop.loop import LoopConfig, run
from llava_st_ros.training.loop.losses import LossTerm, LossTerms, logged_mean, mean_term
from llava_st_ros.training.loop.optimizers import make_optimizers, rate_factor, train_only
from llava_st_ros.training.tiny.dense_alignment import patch_targets
from llava_st_ros.training.tiny.settings import read_settings
from support.small_run import Points, logged, points, small_config, small_net

pytestmark = pytest.mark.slow


def test_rate_warms_up_and_cools_down() -> None:
    assert rate_factor(0.0, 0, 10) == pytest.approx(0.1)
    assert rate_factor(0.01, 10, 10) == pytest.approx(1.0, abs=1e-3)
    assert rate_factor(0.5, 500, 10) == pytest.approx(0.51)
    assert rate_factor(1.0, 1000, 10) == pytest.approx(0.02)


def test_muon_trains_hidden_matrices_and_adamw_the_rest() -> None:
    net = small_net()
    net.unused.weight.requires_grad_(False)
    adamw, muon = make_optimizers(net, small_config(weight_decay=0.1))
    matrices = [net.inside.weight, net.attention.in_proj_weight, net.attention.out_proj.weight]
    assert {id(p) for p in muon.param_groups[0]["params"]} == set(map(id, matrices))
    groups = {group["weight_decay"]: group["params"] for group in adamw.param_groups}
    assert groups.keys() == {0.1, 0.0}
    assert [id(p) for p in groups[0.1]] == [id(net.lm_head.weight)]
    assert {p.ndim for p in groups[0.0]} == {1}
    count = sum(p.requires_grad for p in net.parameters())
    assert len(matrices) + 1 + len(groups[0.0]) == count
    (alone,) = make_optimizers(net, LoopConfig(steps=1, rate=0.01))
    assert sum(len(group["params"]) for group in alone.param_groups) == count


def test_parameters_have_the_rate_of_the_first_matching_pattern() -> None:
    net = small_net()
    rates = {"*.bias": 0.5, "attention.*": 0.2}
    adamw, muon = make_optimizers(net, small_config(rate=0.1, rates=rates))
    found = {id(p): g["lr"] for g in adamw.param_groups for p in g["params"]}
    assert found[id(net.attention.in_proj_weight)] == 0.2  # no longer trained by Muon
    assert found[id(net.attention.out_proj.bias)] == 0.5  # the first matching pattern
    assert found[id(net.lm_head.weight)] == 0.1
    assert {id(p) for p in muon.param_groups[0]["params"]} == {
        id(net.inside.weight),
        id(net.unused.weight),
    }
    with pytest.raises(ConfigError, match=r"rates for atention\.\*"):
        make_optimizers(net, small_config(rates={"atention.*": 0.1}))
    net.requires_grad_(False)
    with pytest.raises(ConfigError, match="without parameters"):
        make_optimizers(net, small_config())


def test_only_named_submodules_are_trained() -> None:
    net = small_net()
    net.attention.requires_grad_(False)
    train_only(net, net.inside, net.lm_head)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"inside.weight", "inside.bias", "lm_head.weight"}


def test_both_optimizers_follow_the_schedule_and_learn(tmp_path: Path) -> None:
    net = small_net()
    before = net.attention.in_proj_weight.detach().clone()
    config = small_config(steps=60, rate=0.02, matrix_rate=0.02)
    assert run("net", net, points, config, tmp_path) == 60
    losses = [line["all"] for line in logged(tmp_path)]  # running means
    assert losses[0] > 1.2 and losses[-1] < 0.8  # uniform guessing: 1.39
    assert not torch.equal(net.attention.in_proj_weight, before)
    still = small_config(steps=3, rate=0.0, matrix_rate=0.0)
    after = [p.detach().clone() for p in net.parameters()]
    run("still", net, points, still, tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), after))


@dataclass(frozen=True)
class Numbers:
    values: torch.Tensor
    sources: tuple[str, ...]


class Line(nn.Module):
    """A loss with a known gradient: the mean of ``weight`` times the numbers, plus twice the mean
    over the positive ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: Numbers) -> LossTerms:
        scaled = self.weight * batch.values
        return {
            "line": mean_term(scaled),
            "positive": mean_term(scaled[batch.values > 0], 2.0),
            "seen": logged_mean(batch.values),
        }


def numbers(*values: float) -> Numbers:
    return Numbers(torch.tensor(values), tuple(f"file.json:{v:g}" for v in values))


@pytest.mark.parametrize(
    ("values", "loss"),
    [((1.0, -3.0, 2.0), 0.0 + 2 * 1.5), ((-1.0, -2.0), -1.5)],
    ids=["both", "nothing positive"],
)
def test_loss_is_the_weighted_sum_of_its_terms(
    tmp_path: Path, values: tuple[float, ...], loss: float
) -> None:
    config = LoopConfig(steps=1, rate=0.0, clip_norm=math.inf)
    run("line", Line(), lambda _: numbers(*values), config, tmp_path)
    (line,) = logged(tmp_path)
    assert line["loss"] == pytest.approx(loss)
    assert line["norm"] == pytest.approx(abs(loss))  # d loss / d weight, at weight 1
    assert line["seen"] == pytest.approx(sum(values) / len(values))
    assert ("positive" in line) == (max(values) > 0)


def test_gradients_of_several_batches_are_averaged(tmp_path: Path) -> None:
    rows = [(1.0,), (2.0, 4.0), (-5.0,), (-7.0, -9.0)]
    seen: list[int] = []

    def batches(i: int) -> Numbers:
        seen.append(i)
        return numbers(*rows[i])

    config = LoopConfig(steps=2, rate=0.0, accumulate=2, log_every=1, clip_norm=math.inf)
    run("line", Line(), batches, config, tmp_path)
    assert seen == [0, 1, 2, 3]
    first, second = logged(tmp_path)
    assert first["loss"] == pytest.approx((3 * 1 + 3 * 3) / 2) == first["norm"]
    # Running means: the second step has weight 0.05.
    assert second["loss"] == pytest.approx(0.95 * 6 + 0.05 * (-5 - 8) / 2)
    assert second["norm"] == pytest.approx(0.95 * 6 + 0.05 * 13 / 2)
    assert second["line"] == pytest.approx(0.95 * 7 / 3 + 0.05 * -21 / 3)  # over both batches


def test_log_line_has_all_fields(tmp_path: Path) -> None:
    config = LoopConfig(steps=25, rate=0.5, warmup=1)
    run("line", Line(), lambda _: numbers(1.0, 2.0), config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 25]
    for line, done in zip(lines, (19, 24)):
        assert list(line)[:3] == ["stage", "step", "minutes"] and line["stage"] == "line"
        assert line["rate"] == pytest.approx(0.5 * rate_factor(done / 25, done, 1))
        assert line["samples_per_second"] > 0 and line["minutes"] >= 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_or_infinite_loss_ends_the_run(tmp_path: Path, value: float) -> None:
    net = Line()
    config = LoopConfig(steps=9, rate=0.1, save_steps=2)
    with pytest.raises(TrainingError, match=r"bad, step 3, from file\.json:1, file") as e:
        run("bad", net, lambda i: numbers(1.0, value if i == 3 else 2.0), config, tmp_path)
    assert str(value) in str(e.value)
    assert torch.isfinite(net.weight)  # the step was not taken
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["bad-0000002"]


def test_exploding_loss_ends_the_run(tmp_path: Path) -> None:
    def batches(i: int) -> Numbers:
        return numbers(-2.0 if i != 6 else -21.0, 0.0)  # losses of -1 and -10.5

    class Falling(Line):
        def forward(self, batch: Numbers) -> LossTerms:
            return {"line": mean_term(-2 * batch.values * self.weight)}

    config = LoopConfig(steps=9, rate=0.0, warmup=2)
    with pytest.raises(TrainingError, match=r"loss of 21 in stage up, step 6, from file.json:-21,"):
        run("up", Falling(), batches, config, tmp_path)
    for name, change in (("warming up", {"warmup": 7}), ("allowed", {"max_loss_ratio": 11.0})):
        run(name, Falling(), batches, dataclasses.replace(config, **change), tmp_path)


def test_stage_ends_at_its_time_limit(tmp_path: Path) -> None:
    config = small_config(steps=10**6, minutes=2e-3)
    steps = run("short", small_net(), points, config, tmp_path)
    assert 0 < steps < 10**6
    last = logged(tmp_path)[-1]
    assert last["step"] == steps
    assert last["rate"] < 0.9 * config.rate  # cooled down by time, not by steps
    # A second call takes no step.
    assert run("short", small_net(), points, config, tmp_path) == steps


def test_first_step_does_not_count_towards_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles, also in a process that resumes from a saved state."""
    now = 0.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))

    class SlowStart(Line):
        seconds = 600.0

        def forward(self, batch: Numbers) -> LossTerms:
            nonlocal now
            now, self.seconds = now + self.seconds, 6.0
            return super().forward(batch)

    expected: list[float] = []
    for minutes in (1, 2):
        config = LoopConfig(steps=1000, minutes=minutes, rate=0.5, warmup=1, log_every=1)
        expected += [minutes - 1 + tenths / 10 for tenths in range(11)]
        steps = run("slow", SlowStart(), lambda _: numbers(1.0), config, tmp_path)
        assert steps == len(expected)
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert [line["minutes"] for line in lines] == pytest.approx(expected)
        # A step's rate follows the clock at the end of the step before it.
        assert lines[-1]["rate"] == pytest.approx(
            0.5 * rate_factor(expected[-2] / minutes, steps - 1, 1)
        )


def test_patch_target_is_the_smallest_covering_object() -> None:
    nan = [math.nan] * 4
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6], nan], dtype=np.float32)
    names = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    classes, targets = patch_targets(boxes, names, 9)
    assert classes.shape == (81, 3) and targets.shape == (81, 4)
    assert classes[40].tolist() == [
        3,
        3,
        3,
    ]  # the center patch: the small object; classes start at 1
    assert np.allclose(targets[40], boxes[1])
    assert classes[0].tolist() == [2, 2, 2] and not (classes == 4).any()


def test_object_smaller_than_a_patch_is_a_target() -> None:
    boxes = np.array([[0.0, 0.0, 0.02, 0.02]], dtype=np.float32)
    classes, _ = patch_targets(boxes, np.array([[0, 0, 0]]), 9)
    assert classes[0, 0] == 1 and (classes[:, 0] > 0).sum() == 1


def test_invalid_settings_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="has no section data, model, stages; "):
        read_settings(path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_settings(tmp_path / "none.yaml")
    assert read_settings(Path("config/training/tiny.yaml"))["model"]["compat"] == "paper"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_prefetched_in_order(workers: int) -> None:
    prefetched = prefetch(points, range(3, 7), workers, torch.device("cpu"))
    for step in range(3, 7):
        batch = next(prefetched)
        assert batch.sources == points(step).sources
        assert torch.equal(batch.x, points(step).x)
    with pytest.raises(StopIteration):
        next(prefetched)


def test_error_while_making_a_batch_is_raised_unchanged() -> None:
    def batches(step: int) -> Points:
        if step == 1:
            raise DataError("a bad record", "fix it")
        return points(step)

    prefetched = prefetch(batches, range(3), 0, torch.device("cpu"))
    next(prefetched)
    with pytest.raises(DataError, match="a bad record"):
        next(prefetched)


def test_unavailable_device_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no CUDA device"):
        loop.make_accelerator("cuda")
    with pytest.raises(ConfigError, match="device is 'gpu'; expected one of auto, cpu, cuda"):
        loop.make_accelerator("gpu")
    assert loop.make_accelerator("cpu").device.type == "cpu"


def test_cuda_that_accelerate_does_not_use_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """ACCELERATE_USE_CPU would train on the CPU without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cpu = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    monkeypatch.setattr(loop, "Accelerator", lambda **_: cpu)
    with pytest.raises(ConfigError, match="accelerate uses cpu, not cuda; unset ACCELERATE_USE"):
        loop.make_accelerator("cuda")


def test_a_gpu_has_a_worker_for_each_core_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers(torch.device("cpu")) == 0
    assert default_workers(torch.device("cuda")) == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(torch.device("cuda")) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert default_workers(torch.device("cuda")) == 1


def test_shards_partition_a_batch() -> None:
    full = points(5)
    shards = [points(5, Shard(r, 4)) for r in range(4)]
    assert [len(shard.sources) for shard in shards] == [2, 2, 1, 1]
    for i, (row, source) in enumerate(zip(full.x, full.sources)):
        shard = shards[i % 4]
        assert torch.equal(shard.x[i // 4], row) and shard.sources[i // 4] == source


def test_batch_keeps_its_structure_on_another_device() -> None:
    """On the meta device, so that a tensor that was not moved is found."""
    pair = LossTerm(torch.ones(2), torch.ones(1))
    batch = to_device(
        [Points(torch.ones(2, 4), ("a",)), {"k": (pair, None, 3)}], torch.device("meta")
    )
    points_, rest = batch
    assert isinstance(points_, Points) and points_.sources == ("a",)
    term, none, three = rest["k"]
    assert isinstance(term, LossTerm) and none is None and three == 3 and term.weight == 1.0
    assert points_.x.is_meta and term.numerator.is_meta and term.denominator.is_meta
