"""What the stream brought against the simulator's truth.

The measure is taken over the camera's frames, as a dataset's annotators would have it. For a
standing query let

- G: the frames within the spans of the events that it describes, in which the simulator sees the
  object; T_t its box there,
- P: the frames that the query's published tracks cover in the end (``Recording.query_tube``:
  between two boxes of a track at most 1 s apart, interpolated linearly), whichever track they
  belong to; B_t the box there.

Then vIoU = sum over t in P and G of IoU(B_t, T_t) / |P or G|: a track that begins late, goes on too
long, comes where nothing happened or lies beside the object lowers it. Frames within a true span
in which the object is hidden belong to neither. tIoU = |P and G| / |P or G|, sIoU the mean IoU over
P and G.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation import metrics
from llava_st_ros.evaluation.metrics import Tube
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.records import Box, Span, Task


@dataclass(frozen=True)
class TrueQuery:
    """A query, the spans of the events that it describes and its object's box at every frame."""

    id: str
    text: str
    spans: tuple[Span, ...]
    boxes: Mapping[int, Box]
    task: Task = Task.STVG

    def happens_at(self, stamp: int) -> bool:
        return any(span.start <= stamp <= span.end for span in self.spans)


@dataclass(frozen=True)
class Score:
    """One query's figures, each in [0, 1], over the frames of the bag."""

    query_id: str
    text: str
    viou: float
    tiou: float
    siou: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_truth(path: Path) -> tuple[TrueQuery, ...]:
    """truth.json beside a bag. Raises DataError where it is missing or lacks something."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            TrueQuery(
                entry["id"],
                entry["text"],
                tuple(Span(*span) for span in entry["spans"]),
                {int(stamp): Box(*box) for stamp, box in entry["boxes"].items()},
                Task(entry.get("task", Task.STVG.value)),
            )
            for entry in loaded["queries"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__}: {error}"
            "; expected queries with id, text, spans and boxes",
            "make it again with demo/make_bag.py",
        ) from error


def score(recording: Recording, query: TrueQuery, stamps: Sequence[int]) -> Score:
    """The figures of one query over the bag's frames ``stamps`` (ns)."""
    hidden = {s for s in stamps if query.happens_at(s) and s not in query.boxes}
    truth: Tube[int] = {
        s: query.boxes[s] for s in stamps if query.happens_at(s) and s not in hidden
    }
    found = recording.query_tube(query.id, stamps)
    tube: Tube[int] = {stamp: box for stamp, box in found.items() if stamp not in hidden}
    union = len(tube.keys() | truth.keys())
    return Score(
        query_id=query.id,
        text=query.text,
        viou=metrics.viou(tube, truth),
        tiou=len(tube.keys() & truth.keys()) / union if union else 0.0,
        siou=metrics.siou(tube, truth),
    )
