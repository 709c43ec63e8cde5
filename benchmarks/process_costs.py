"""What a running process costs, read from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time of a process and its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(process_id: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def handles(process_id: int) -> tuple[int, int]:
    """Return the numbers of threads and of open files of a process."""
    folder = Path(f"/proc/{process_id}")
    return len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))
