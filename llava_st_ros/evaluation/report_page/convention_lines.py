"""What differs between the conventions of a run's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava_st_ros.evaluation.captions import CAPTION_CONVENTIONS
from llava_st_ros.evaluation.conventions.catalogue import CONVENTIONS
from llava_st_ros.evaluation.results import MetricRow
from llava_st_ros.evaluation.streams.scores import STREAM_CONVENTIONS, STREAM_METRICS


def convention_lines(rows: Sequence[MetricRow]) -> list[tuple[str, str]]:
    """Return the name of each convention in a run and what sets it apart, one line each."""
    on_streams = {metric.key for metric in STREAM_METRICS}
    lines: dict[tuple[str, str], None] = {}
    for row in rows:
        is_of_stream = row.definition is not None and row.definition.key in on_streams
        if is_of_stream and row.convention in STREAM_CONVENTIONS:
            text = STREAM_CONVENTIONS[row.convention]
        elif row.convention in CONVENTIONS:
            text = CONVENTIONS[row.convention].differs
        elif row.convention in CAPTION_CONVENTIONS:
            text = CAPTION_CONVENTIONS[row.convention]
        else:
            text = "not described in this version"
        lines[row.convention or "not named", text] = None
    return list(lines)


@dataclass(frozen=True)
class SideBySide:
    """The figures that several conventions have.

    Attributes:
        conventions: The names of the columns.
        lines: Task, metric, and the row of each convention; None where it has none.
    """

    conventions: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[MetricRow | None, ...]], ...]


def side_by_side(rows: Sequence[MetricRow]) -> SideBySide | None:
    """Return the metrics that a task has by more than one convention; None if there is none."""
    found: dict[tuple[str, str, str], dict[str, MetricRow]] = {}
    for row in rows:
        found.setdefault((row.task, row.metric, row.unit), {})[row.convention] = row
    shared = {key: of_key for key, of_key in found.items() if len(of_key) > 1}
    names = tuple(dict.fromkeys(name for of_key in shared.values() for name in of_key))
    lines = tuple(
        (task, metric, tuple(of_key.get(name) for name in names))
        for (task, metric, _), of_key in shared.items()
    )
    return SideBySide(names, lines) if lines else None
