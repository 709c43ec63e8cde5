"""Gives memory back to the operating system."""

from __future__ import annotations

import ctypes
import gc


def free_memory() -> None:
    """Collect unreachable objects, and return what the allocator keeps of freed memory.

    glibc keeps freed memory for the process; a model's weights are many allocations between others
    that stay, so most of it would remain resident.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc only
    if trim is not None:
        trim(0)
