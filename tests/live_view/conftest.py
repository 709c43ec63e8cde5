"""A served page without a node, and a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.manual_clock import ManualClock
from support.served_view import Served


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
