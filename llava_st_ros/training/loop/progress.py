"""Progress of a run: running means, a progress bar, and the log's JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import DataError
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.files.limits import JSON_BYTES
from llava_st_ros.files.raw import read_text

DECAY = 0.95
HIDDEN_FROM_BAR = ("step", "minutes", "rate", "samples_per_second")


class RunningMeans:
    """Exponential moving averages of the logged values. Values that are not finite are skipped."""

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self.values = dict(values or {})

    def update(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            if math.isfinite(value):
                self.values[key] = value + DECAY * (self.values.get(key, value) - value)


class Progress:
    """The progress bar of a stage and its lines in the log.

    Lines of this stage after step ``first`` are removed from the log first: a run that resumes
    there writes them again.

    Args:
        name: The stage.
        steps: Its number of steps.
        first: The number of steps already taken.
        log: The JSON lines file.
        enabled: Whether to show the bar and write the log.
    """

    def __init__(self, name: str, steps: int, first: int, log: Path, enabled: bool) -> None:
        self.name, self.steps, self.log, self.enabled = name, steps, log, enabled
        self.minutes_left = math.inf
        if enabled:
            truncate_log(log, name, first)
        self.bar = tqdm(
            total=steps,
            initial=first,
            desc=name,
            disable=not enabled,
            bar_format="{desc}: {percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt}{postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, minutes_left: float) -> None:
        """Count one step. ``minutes_left`` is the estimated time to the end of the stage."""
        self.minutes_left = minutes_left
        self.bar.update()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log and show its values next to the bar."""
        if not self.enabled:
            return
        with self.log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"stage": self.name, **record}) + "\n")
        metrics = [f"{k} {v:.3f}" for k, v in record.items() if k not in HIDDEN_FROM_BAR]
        left = f"{self.minutes_left:.1f} min left"
        speed = f"{record['samples_per_second']:.3g} samples/s"
        self.bar.set_postfix_str(", ".join([left, speed, f"rate {record['rate']:.2g}", *metrics]))


def truncate_log(log: Path, stage: str, step: int) -> None:
    """Remove the lines of ``stage`` after ``step`` from a log, and all incomplete lines."""
    if not log.exists():
        return
    *lines, _ = read_text(log, DataError, max_bytes=JSON_BYTES).split("\n")
    kept = [line for line in lines if _is_before(line, log, stage, step)]
    write_text(log, "".join(f"{line}\n" for line in kept))


def _is_before(line: str, log: Path, stage: str, step: int) -> bool:
    """Whether a log line is of another stage, or of a step up to ``step``."""
    try:
        record = parse_json(line, str(log), DataError, nan=True)
    except DataError:
        return False  # truncated when the process was killed
    number = record.get("step")
    return record.get("stage") != stage or (isinstance(number, int) and number <= step)
