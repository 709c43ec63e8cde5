"""What a run says of itself: running means, a progress bar, JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava_st_ros.atomic_files import write_text

DECAY = 0.95


class RunningMeans:
    """Exponential means of everything logged; a value that is not finite is left out."""

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self.values = dict(values or {})

    def update(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            if math.isfinite(value):
                self.values[key] = value + DECAY * (self.values.get(key, value) - value)


class Progress:
    """The bar of a stage and its lines in ``log``; silent where ``shown`` is False.

    Lines of this stage beyond step ``first`` are taken out of the log first: a run that goes on
    from there writes them again, and no step may stand there twice.
    """

    def __init__(self, name: str, steps: int, first: int, log: Path, shown: bool) -> None:
        self.name, self.steps, self.log, self.shown = name, steps, log, shown
        if shown:
            cut_back(log, name, first)
        self.bar = tqdm(
            total=steps,
            initial=first,
            desc=name,
            disable=not shown,
            bar_format="{desc}: {percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt}{postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, minutes_left: float) -> None:
        """One step done; ``minutes_left`` by the clock or the steps, whichever ends first."""
        self.minutes_left = minutes_left
        self.bar.update()

    def write(self, record: Mapping[str, Any]) -> None:
        """A line of the log, and the same beside the bar."""
        if not self.shown:
            return
        with self.log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"stage": self.name, **record}) + "\n")
        hidden = ("step", "minutes", "rate", "samples_per_second")
        parts = [f"{k} {v:.3f}" for k, v in record.items() if k not in hidden]
        left = f"{self.minutes_left:.1f} min left"
        speed = f"{record['samples_per_second']:.3g} samples/s"
        self.bar.set_postfix_str(", ".join([left, speed, f"rate {record['rate']:.2g}", *parts]))


def cut_back(log: Path, stage: str, step: int) -> None:
    """Take the lines of ``stage`` beyond ``step``, and what is no whole line, out of a log."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        if line.endswith("\n") and (record["stage"] != stage or record["step"] <= step):
            kept.append(line)
    write_text(log, "".join(kept))
