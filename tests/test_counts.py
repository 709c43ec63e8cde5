"""Counts that are increased by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llava_st_ros.counts import incremented


@dataclass(frozen=True)
class Fruit:
    apples: int = 0
    pears: int = 0


def test_only_named_counts_are_increased() -> None:
    before = Fruit(apples=3, pears=5)
    assert incremented(before, pears=2) == Fruit(apples=3, pears=7)
    assert incremented(before, apples=1, pears=0) == Fruit(apples=4, pears=5)
    assert before == Fruit(apples=3, pears=5)
    with pytest.raises(AttributeError):
        incremented(before, plums=1)
