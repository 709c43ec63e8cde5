"""Exports and proofs run torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from support.threads import one_thread


# For a module, so that its engines are exported on one thread too: sums depend on the number.
@pytest.fixture(autouse=True, scope="module")
def torch_on_one_thread() -> Iterator[None]:
    if find_spec("torch") is None:
        yield
        return
    with one_thread():
        yield
