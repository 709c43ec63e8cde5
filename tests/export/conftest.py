"""Exports and proofs run torch on one thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from support.threads import one_thread


@pytest.fixture(autouse=True)
def torch_on_one_thread() -> Iterator[None]:
    if "torch" not in sys.modules:  # a test that does not use it should not import it
        yield
        return
    with one_thread():
        yield
