"""The figures by which standing queries are judged first, of all that a run on streams has."""

from __future__ import annotations

from collections.abc import Sequence

from llava_st_ros.evaluation.results import MetricRow

ALL_QUERIES = "stream"  # the rows of all queries together
HEADLINE: Sequence[tuple[str, str]] = (
    ("STVG", "final vIoU"),
    ("STVG", "final tIoU"),
    (ALL_QUERIES, "answered though nothing matches"),
    (ALL_QUERIES, "missed, complete event"),
    (ALL_QUERIES, "missed, cut event"),
    (ALL_QUERIES, "AUROC of P(match)"),
    (ALL_QUERIES, "AUROC of P(match), something else happens"),
    (ALL_QUERIES, "ECE of P(match)"),
    (ALL_QUERIES, "false confirmed events"),
    (ALL_QUERIES, "false events, provisional ones too"),
    (ALL_QUERIES, "retracted events"),
    (ALL_QUERIES, "retracted after confirmation"),
    ("STVG", "detection delay p50"),
    ("STVG", "detection delay p90"),
    ("STVG", "missed events"),
    ("REC", "final vIoU"),
    ("REC", "ids per followed object"),
    ("REC", "missed, object visible"),
)


def headline(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Return the rows of HEADLINE that a run has, in its order."""
    by_name = {(row.task, row.metric): row for row in rows}
    return [by_name[name] for name in HEADLINE if name in by_name]
