"""What benchmarks report of a process: its own memory apart from what it shares."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from benchmarks.process_costs import memory_mib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 32 * 2**20


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, "shared"),
        (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, "anonymous"),
    ],
)
def test_memory_counts_by_kind_as_far_as_it_is_used(flags: int, kind: str) -> None:
    before = memory_mib(os.getpid())
    with mmap.mmap(-1, SIZE, flags=flags) as block:
        mapped = memory_mib(os.getpid())
        block[:] = b"x" * SIZE
        used = memory_mib(os.getpid())
    grown = {name: getattr(used, name) - getattr(before, name) for name in used._fields}
    assert max(grown, key=lambda name: grown[name]) == kind
    assert grown[kind] == pytest.approx(32, abs=4)
    assert getattr(mapped, kind) - getattr(before, kind) < 4
