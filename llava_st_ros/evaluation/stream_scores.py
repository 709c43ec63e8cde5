"""The simulator's ground-truth file."""

from __future__ import annotations

from pathlib import Path

from llava_st_ros.errors import DataError, LlavaStError, one_line
from llava_st_ros.evaluation.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.files.json_files import read_json
from llava_st_ros.records import Box, Span, Task


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a truth.json (see ``simulation.bag_writer``).

    Raises:
        DataError: The file is missing or a query lacks a field.
    """
    remedy = "every query needs an id, a text, spans and boxes"
    loaded = read_json(path, DataError, remedy)
    try:
        topic = loaded.get("topic", "")
        camera = AnnotatedCamera(topic, loaded.get("width", 1), loaded.get("height", 1))
        objects = tuple(
            AnnotatedObject(
                str(number),
                entry["text"],
                topic,
                {int(stamp): Box(*box) for stamp, box in entry["boxes"].items()},
            )
            for number, entry in enumerate(loaded["queries"])
        )
        queries = tuple(
            AnnotatedQuery(
                entry["id"],
                entry["text"],
                Task(entry.get("task", Task.STVG.value)),
                topic,
                tuple(Span(*span) for span in entry["spans"]),
                (str(number),),
            )
            for number, entry in enumerate(loaded["queries"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, LlavaStError) as error:
        raise DataError(
            f"{path} has no readable ground truth: {one_line(error)}", remedy
        ) from error
    return GroundTruth((camera,), objects, queries)
