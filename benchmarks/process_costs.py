"""What a running process costs, read from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Resident memory of a process in MiB.

    Attributes:
        anonymous: Its own: heaps, stacks.
        shared: Shared memory, of which the segments of Fast DDS are a part. It grows while pages
            that other processes have written are read for the first time, up to the segments' size.
        mapped: Mapped files: libraries, weights.
    """

    anonymous: float
    shared: float
    mapped: float


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time of a process and its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process_id: int) -> Memory:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    kinds = ("RssAnon", "RssShmem", "RssFile")  # proc(5), in KiB
    return Memory(*(int(values[kind].split()[0]) / 1024 for kind in kinds))


def handles(process_id: int) -> tuple[int, int]:
    """Return the numbers of threads and of open files of a process."""
    folder = Path(f"/proc/{process_id}")
    return len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))
