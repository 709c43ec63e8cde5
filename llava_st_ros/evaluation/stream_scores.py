"""Scores of standing queries over a stream: published tracks against ground-truth boxes.

The metrics are computed over the camera's frames, as for an annotated data set. For a standing
query let

- G be the frames within the spans of the events that it describes in which its object is visible,
  with T_t the object's ground-truth box at frame t,
- P be the frames that the query's published tracks cover (``Recording.query_tube``: boxes of a
  track at most 1 s apart are interpolated linearly), whichever track they belong to, with B_t the
  box at frame t.

Then

    vIoU = sum over t in P and G of IoU(B_t, T_t) / |P or G|
    tIoU = |P and G| / |P or G|
    sIoU = sum over t in P and G of IoU(B_t, T_t) / |P and G|

A track that starts late, ends late, appears where nothing happens or misses the object lowers
vIoU. Frames within a ground-truth span in which the object is hidden belong to neither set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, LlavaStError, one_line
from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.metrics import Tube
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.files.json_files import read_json
from llava_st_ros.records import Box, Span, Task


@dataclass(frozen=True)
class AnnotatedQuery:
    """A query with its ground truth.

    Attributes:
        spans: The events that the query describes (ns).
        boxes: The object's box by stamp (ns), for every frame in which it is visible.
    """

    id: str
    text: str
    spans: tuple[Span, ...]
    boxes: Mapping[int, Box]
    task: Task = Task.STVG

    def is_active(self, stamp: int) -> bool:
        """Return whether a described event is in progress at a stamp (ns)."""
        return any(span.start <= stamp <= span.end for span in self.spans)


@dataclass(frozen=True)
class StreamScore:
    """The metrics of one query over a stream, each in [0, 1]."""

    query_id: str
    text: str
    viou: float
    tiou: float
    siou: float

    def as_json(self) -> dict[str, Any]:
        """Return the score as plain values."""
        return asdict(self)


def read_ground_truth(path: Path) -> tuple[AnnotatedQuery, ...]:
    """Read a truth.json (see ``simulation.bag_writer``).

    Raises:
        DataError: The file is missing or a query lacks a field.
    """
    remedy = "every query needs an id, a text, spans and boxes"
    loaded = read_json(path, DataError, remedy)
    try:
        return tuple(
            AnnotatedQuery(
                entry["id"],
                entry["text"],
                tuple(Span(*span) for span in entry["spans"]),
                {int(stamp): Box(*box) for stamp, box in entry["boxes"].items()},
                Task(entry.get("task", Task.STVG.value)),
            )
            for entry in loaded["queries"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, LlavaStError) as error:
        raise DataError(
            f"{path} has no readable ground truth: {one_line(error)}", remedy
        ) from error


def score_query(recording: Recording, query: AnnotatedQuery, stamps: Sequence[int]) -> StreamScore:
    """Score one query's recorded tracks over a stream.

    Args:
        recording: What was published.
        query: The query, with its ground truth.
        stamps: The stamps (ns) of the camera's frames.

    >>> box = Box(0, 0, 1, 1)
    >>> query = AnnotatedQuery("q", "it rolls", (Span(0, 1),), {0: box, 1: box, 2: box})
    >>> score_query(Recording(), query, stamps=[0, 1, 2]).viou
    0.0
    """
    hidden = {s for s in stamps if query.is_active(s) and s not in query.boxes}
    expected: Tube[int] = {
        s: query.boxes[s] for s in stamps if query.is_active(s) and s not in hidden
    }
    covered = recording.query_tube(query.id, stamps)
    predicted: Tube[int] = {stamp: box for stamp, box in covered.items() if stamp not in hidden}
    return StreamScore(
        query_id=query.id,
        text=query.text,
        viou=metrics.viou(predicted, expected),
        tiou=metrics.tube_tiou(predicted, expected),
        siou=metrics.siou(predicted, expected),
    )


def mean_scores(scores: Sequence[StreamScore]) -> dict[str, float]:
    """Return the mean vIoU, tIoU and sIoU over queries, 0 for no queries.

    >>> mean_scores([StreamScore("a", "", 0.5, 1.0, 0.5), StreamScore("b", "", 0.0, 0.0, 0.0)])
    {'viou': 0.25, 'tiou': 0.5, 'siou': 0.25}
    """
    return {
        name: metrics.mean([getattr(score, name) for score in scores])
        for name in ("viou", "tiou", "siou")
    }
