"""Grown batches have the samples of the recipe's batches, each once, all of one kind."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.errors import ConfigError
from llava_st_ros.training.loop.batches import Shard, item_rng
from llava_st_ros.training.loop.draws import Draws
from llava_st_ros.training.loop.loop import LoopConfig
from support.small_run import small_config


def numbers(rngs: list[np.random.Generator]) -> list[int]:
    return [int(rng.integers(2**60)) for rng in rngs]


def is_about_clips(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.7)


def test_batches_that_are_not_grown_are_the_recipes() -> None:
    draws = Draws(5, 3, kind=is_about_clips)
    for step in (4, 0, 1):  # in any order
        expected = [int(item_rng(5, step, item).integers(2**60)) for item in range(3)]
        assert draws.batches(step) == (step,)
        assert numbers(draws.items(step)) == expected
        assert draws.kind(step) == (item_rng(5, step, 3).random() < 0.7)


def test_equal_kinds_are_joined_in_order() -> None:
    clips, frames = True, False
    kinds = iter([clips, frames, clips, clips, frames, frames, clips, frames])
    draws = Draws(0, 1, grow=2, kind=lambda _: next(kinds))
    # 0 and 2 are about clips; 1 waits for 4, 3 for 6, 5 for 7.
    assert [draws.batches(step) for step in range(4)] == [(0, 2), (1, 4), (3, 6), (5, 7)]


@given(seed=st.integers(0, 99), grow=st.integers(1, 6), size=st.integers(1, 4))
def test_growth_keeps_every_sample(seed: int, grow: int, size: int) -> None:
    recipe, grown = (Draws(seed, size, grow=k, kind=is_about_clips) for k in (1, grow))
    steps = 30
    joined = [grown.batches(step) for step in range(steps)]
    used = list(chain.from_iterable(joined))
    assert len(set(used)) == len(used) == steps * grow
    # No batch is skipped for long: those that wait are less than ``grow`` of each kind.
    assert len(set(range(max(used))) - set(used)) <= 2 * (grow - 1)
    for step, batches in enumerate(joined):
        assert {recipe.kind(batch) for batch in batches} == {grown.kind(step)}
        expected = [number for batch in batches for number in numbers(recipe.items(batch))]
        assert numbers(grown.items(step)) == expected


def test_processes_share_the_items_of_a_grown_batch() -> None:
    full = numbers(Draws(1, 3, grow=4).items(2))
    shards = [numbers(Draws(1, 3, Shard(rank, 5), grow=4).items(2)) for rank in range(5)]
    assert [len(shard) for shard in shards] == [3, 3, 2, 2, 2]
    assert [shards[item % 5][item // 5] for item in range(12)] == full


def test_growth_of_nothing_is_rejected() -> None:
    with pytest.raises(ConfigError, match="grow is 0; expected at least 1"):
        Draws(0, 1, grow=0)


def test_grown_settings_keep_the_samples_and_scale_the_rates() -> None:
    config = small_config(
        steps=800, rate=0.01, matrix_rate=0.02, rates={"x": 0.03}, warmup=100, save_steps=30
    )
    grown = config.grown(4)
    assert (grown.steps, grown.warmup, grown.save_steps, grown.log_every) == (200, 25, 8, 1)
    assert (grown.rate, grown.matrix_rate, grown.rates["x"]) == pytest.approx((0.02, 0.04, 0.06))
    # All steps together decay weights by the same factor.
    decays = [c.steps * c.rate * c.weight_decay for c in (config, grown)]
    assert decays[0] == pytest.approx(decays[1])
    assert config.grown(1) == config
    assert LoopConfig(steps=7, rate=0.1, log_every=20).grown(3).steps == 3
    assert math.isinf(grown.minutes) and grown.clip_norm == config.clip_norm
