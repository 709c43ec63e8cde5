"""Plots of a training log: the losses and the learning rate of every stage over its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.errors import DataError, reason_of
from llava_st_ros.files.json_files import parse_json
from llava_st_ros.files.limits import JSON_BYTES
from llava_st_ros.files.raw import read_text

# Fields of a log line that are not loss terms; "norm" is the gradient's.
NOT_LOSSES = ("stage", "step", "minutes", "norm", "rate", "samples_per_second")
_OTHER_LOG = "pass the log.jsonl of a training run"
LogLine = dict[str, Any]


def draw_curves(log: Path, out: Path) -> None:
    """Write ``out``, a PNG, from a run's log.jsonl.

    Raises:
        DataError: The log cannot be read or the PNG cannot be written.
    """
    figure = make_figure(read_log(log))
    try:
        with atomic_file(out) as part:
            FigureCanvasAgg(figure).print_png(str(part))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {reason_of(error)}") from error


def read_log(log: Path) -> dict[str, list[LogLine]]:
    """Return the log's lines by stage, stages in the order in which they started.

    A last line without a line end is skipped: a run may be writing it, or was killed.

    Raises:
        DataError: The log cannot be read, is empty, or has a line that is not a training log's.
    """
    text = read_text(log, DataError, max_bytes=JSON_BYTES)
    *complete, _ = text.split("\n")
    stages: dict[str, list[LogLine]] = {}
    for number, line in enumerate(complete, start=1):
        values = parse_json(line, f"{log}:{number}", DataError, _OTHER_LOG, expected=None, nan=True)
        if not _is_log_line(values):
            raise DataError(
                f"{log}:{number}: {line[:60]!r} is not a JSON object with a stage, a step and "
                "numbers",
                _OTHER_LOG,
            )
        stages.setdefault(values["stage"], []).append(values)
    if not stages:
        raise DataError(f"{log} is empty", "let the run log something first")
    return stages


def make_figure(stages: Mapping[str, Sequence[LogLine]]) -> Figure:
    """Plot one column per stage: its loss terms over the steps, and its learning rate below."""
    figure = Figure(figsize=(max(7.0, 5.5 * len(stages)), 6.5), layout="constrained")
    axes = figure.subplots(
        2, len(stages), sharex="col", squeeze=False, gridspec_kw={"height_ratios": (3, 1)}
    )
    for column, (stage, lines) in enumerate(stages.items()):
        losses, rates = axes[0, column], axes[1, column]
        # Twenty colors: a stage logs more terms than the default cycle's ten.
        losses.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
        names = dict.fromkeys(name for line in lines for name in line if name not in NOT_LOSSES)
        for name in names:
            is_total = name == "loss"
            losses.plot(
                *_curve(lines, name),
                label=name,
                color="black" if is_total else None,
                linewidth=2.0 if is_total else 1.0,
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


def _curve(lines: Sequence[LogLine], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of the lines that have ``name``."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def _is_log_line(values: Any) -> bool:
    if not isinstance(values, dict) or not isinstance(values.get("stage"), str):
        return False
    numbers = [value for name, value in values.items() if name != "stage"]
    return "step" in values and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        for value in numbers
    )
