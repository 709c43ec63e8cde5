"""Runs each surface in a process of its own: a crash, a hang or full memory is a finding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
MEMORY = 6 << 30  # bytes of address space of a process


@dataclass(frozen=True)
class Finding:
    """An input on which the product failed.

    Attributes:
        index: Number of the input; with the surface and the seed it determines the input.
        kind: Type of the exception, "hang" or "crash".
        message: Its message and place.
        description: How the input differs from a valid one.
    """

    index: int
    kind: str
    message: str
    description: str


@dataclass
class Result:
    """The outcome of one surface.

    Attributes:
        surface: Its name.
        tried: Number of inputs.
        accepted: Number of inputs that the product accepted.
        rejected: Number of inputs that the product rejected.
        findings: The inputs on which it failed, one for each kind and place.
        failed: Number of inputs on which it failed.
    """

    surface: str
    tried: int = 0
    accepted: int = 0
    rejected: int = 0
    findings: list[Finding] = field(default_factory=list)
    failed: int = 0

    def add(self, other: Result) -> None:
        self.tried += other.tried
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.failed += other.failed
        self.findings.extend(other.findings)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The inverse of ``as_dict``; other keys are ignored."""
        known = {f.name: values[f.name] for f in fields(cls)}
        return cls(**{**known, "findings": [Finding(**f) for f in values["findings"]]})


def run(
    surfaces: list[str], seed: int, seconds: float, folder: Path, processes: int = 2
) -> list[Result]:
    """Fuzz each surface for ``seconds``.

    Args:
        surfaces: Names.
        seed: Seed of the inputs.
        seconds: Time for each surface.
        folder: Folder for files.
        processes: Number of surfaces at a time.
    """
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(lambda name: _run_surface(name, seed, seconds, folder), surfaces))


def _run_surface(name: str, seed: int, seconds: float, folder: Path) -> Result:
    total, first, end = Result(name), 0, time.monotonic() + seconds
    while True:
        result, next_index = _run_process(name, seed, first, end - time.monotonic(), folder)
        total.add(result)
        if next_index is None or len(total.findings) > 50 or time.monotonic() >= end:
            return total
        first = next_index


def _run_process(
    name: str, seed: int, first: int, seconds: float, folder: Path
) -> tuple[Result, int | None]:
    """Run one process; also return where to continue if it died."""
    place = folder / f"{name}-{first}"
    place.mkdir(parents=True, exist_ok=True)
    progress = place / "progress"
    arguments = [name, str(seed), str(first), f"{seconds:.3f}", str(place)]
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.process", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        # What a library prints to stdout is before the result.
        return Result.from_dict(json.loads(done.stdout.splitlines()[-1])), None
    stderr = done.stderr.decode(errors="replace")
    if not progress.exists():
        finding = Finding(first, "no start", stderr[-2000:], "the surface itself failed")
        return Result(name, failed=1, findings=[finding]), None
    values = json.loads(progress.read_text())
    kind = "hang" if "Timeout" in stderr else "crash"
    tail = " | ".join(line.strip() for line in stderr.strip().splitlines()[-40:])
    result, index = Result.from_dict(values), values["index"]
    message = f"exit {done.returncode}: {tail}"
    finding = Finding(index, kind, message, values["description"])
    result.add(Result(name, tried=1, failed=1, findings=[finding]))
    return result, index + 1
