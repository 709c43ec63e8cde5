"""A served page without a node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.served_view import Served


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()
