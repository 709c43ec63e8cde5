"""Draws reliability diagrams: the frequency of right predictions over their probability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.errors import DataError, reason_of
from llava_st_ros.evaluation.reliability import reliability
from llava_st_ros.training.calibration.fit import Reliability

_COLUMNS = 2
_STYLES = (("before", "tab:gray", "o--"), ("after", "tab:blue", "o-"))


def draw_reliability(measured: Sequence[Reliability], out: Path) -> None:
    """Write a PNG with a diagram for each kind of probability, before and after calibration.

    Raises:
        DataError: The PNG cannot be written.
    """
    rows = -(-len(measured) // _COLUMNS)
    figure = Figure(figsize=(3.6 * _COLUMNS, 3.4 * rows), layout="constrained")
    for number, each in enumerate(measured, 1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        axes.plot((0, 1), (0, 1), color="lightgray", linewidth=1)
        for name, color, style in _STYLES:
            probabilities = getattr(each, name)
            bins = reliability(probabilities, each.outcomes)
            error, _ = each.errors(probabilities)
            axes.plot(
                [b.probability for b in bins],
                [b.frequency for b in bins],
                style,
                color=color,
                markersize=4,
                label=f"{name}, ECE {error:.3f}",
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_title(f"{each.quantity}, {each.modality.value} tasks, {each.origin}", fontsize=10)
        axes.set_xlabel("probability")
        axes.set_ylabel("frequency")
        axes.legend(fontsize=8)
    try:
        with atomic_file(out) as part:
            FigureCanvasAgg(figure).print_png(str(part))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {reason_of(error)}") from error
