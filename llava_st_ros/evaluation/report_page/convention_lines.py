"""What differs between the conventions of a run's figures."""

from __future__ import annotations

from collections.abc import Sequence

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
