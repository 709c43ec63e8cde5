"""A training log as pictures: the losses and the rate of every stage over its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.errors import DataError

# What a line says of the run and not of what is learned; "norm" is the gradient's.
NO_LOSS = ("stage", "step", "minutes", "norm", "rate", "samples_per_second")
Line = dict[str, Any]


def draw_curves(log: Path, out: Path) -> None:
    """Write ``out``, a PNG, from a run's log.jsonl. Raises DataError where either cannot be."""
    figure = make_figure(read_log(log))
    try:
        with atomic_file(out) as part:
            FigureCanvasAgg(figure).print_png(str(part))
    except OSError as error:
        raise DataError(f"{out}: {error}; expected a place to write to") from error


def read_log(log: Path) -> dict[str, list[Line]]:
    """The log's lines by stage, stages in the order in which they began.

    A last line without an end is left out: a run may be writing it, or was killed. Raises
    DataError for anything else that is not a line of a training log, and for a log without one.
    """
    try:
        text = log.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{log}: {error}; expected a run's log.jsonl") from error
    *whole, _ = text.split("\n")
    stages: dict[str, list[Line]] = {}
    for number, line in enumerate(whole, start=1):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not _is_line(values):
            raise DataError(
                f"{log}:{number}: {line[:60]!r}"
                "; expected a JSON object with a stage, a step and numbers",
                "name the log.jsonl of a training run",
            )
        stages.setdefault(values["stage"], []).append(values)
    if not stages:
        raise DataError(
            f"{log} without a line; expected a run's log.jsonl", "let the run log something"
        )
    return stages


def make_figure(stages: Mapping[str, Sequence[Line]]) -> Figure:
    """A column for each stage: its losses, each a curve over the steps, and below its rate."""
    figure = Figure(figsize=(max(7.0, 5.5 * len(stages)), 6.5), layout="constrained")
    axes = figure.subplots(
        2, len(stages), sharex="col", squeeze=False, gridspec_kw={"height_ratios": (3, 1)}
    )
    for column, (stage, lines) in enumerate(stages.items()):
        losses, rates = axes[0, column], axes[1, column]
        # Twenty colors: a stage logs more parts than the usual ten.
        losses.set_prop_cycle(color=colormaps["tab20"].colors)
        names = dict.fromkeys(name for line in lines for name in line if name not in NO_LOSS)
        for name in names:
            heavy = name == "loss"
            losses.plot(
                *_curve(lines, name),
                label=name,
                color="black" if heavy else None,
                linewidth=2.0 if heavy else 1.0,
            )
        losses.set_title(stage)
        losses.set_ylabel("mean")
        losses.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        rates.plot(*_curve(lines, "rate"), color="tab:gray")
        rates.set_ylabel("rate")
        rates.set_ylim(bottom=0.0)
        rates.set_xlabel("step")
        for axis in (losses, rates):
            axis.grid(alpha=0.3)
    return figure


def _curve(lines: Sequence[Line], name: str) -> tuple[list[int], list[float]]:
    """Steps and values; a line without the value has no point."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def _is_line(values: Any) -> bool:
    if not isinstance(values, dict) or not isinstance(values.get("stage"), str):
        return False
    numbers = [value for name, value in values.items() if name != "stage"]
    return "step" in values and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        for value in numbers
    )
