"""Changes sent by the page: accepted ones are written, and read from the file unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.annotations.annotation_file import read_annotations
from llava_st_ros.annotations.records import AnnotatedCamera
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.annotate.annotation_store import AnnotationStore
from llava_st_ros.files.json_files import parse_json

TOPIC = "/cam"
CAMERAS = {TOPIC: AnnotatedCamera(TOPIC, 200, 100)}
OBJECT = {
    "id": "cup",
    "label": "red cup",
    "topic": TOPIC,
    "boxes": {"10": [20, 10, 60, 50], "20": [22.5, 10, 62.5, 50], "30": [25, 10, 65, 50]},
    "keyframes": ["10", "30"],
    "ends": ["40"],
}
QUERY = {
    "id": "fall",
    "text": "the cup falls",
    "task": "STVG",
    "topic": TOPIC,
    "spans": [["10", "20"], ["30", "30"]],
    "objects": ["cup"],
    "noMatch": False,
}
CHANGES: dict[str, Any] = {"objects": {"cup": OBJECT}, "queries": {"fall": QUERY}}


class PageChanges(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = folder / "annotations.json"

    def make(self, rng: np.random.Generator) -> Case:
        if rng.integers(4) == 0:
            data, step = mutate_bytes(rng, json.dumps(CHANGES).encode())
            return Case(data, step)
        value, step = mutate_json(rng, CHANGES)
        return Case(json.dumps(value).encode(), step)

    def check(self, data: Any) -> None:
        self._file.unlink(missing_ok=True)
        store = AnnotationStore(self._file)
        state = store.apply(parse_json(data, "the request", DataError), 1, CAMERAS)
        if not state["isWritten"]:
            raise WrongAcceptanceError(f"not written: {state['problem']}")
        read = read_annotations(self._file)
        if read.notes:
            raise WrongAcceptanceError(f"the file is read with changes: {read.notes}")
        shown = store.to_json()
        again = AnnotationStore(self._file).to_json()
        for item in shown["objects"]:
            item["ends"] = []  # which the file does not have
        queries = [query for query in shown["queries"] if query["id"] not in state["incomplete"]]
        if (again["objects"], again["queries"]) != (shown["objects"], queries):
            raise WrongAcceptanceError("the file has other values than the page")


SURFACE = PageChanges
