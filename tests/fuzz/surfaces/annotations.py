"""Annotation files, COCO video, MOT text and CVAT XML: what is accepted survives being written."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from fuzz.mutations import HOSTILE_VALUES, mutate_bytes, mutate_json, shown
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.annotations.annotation_file import SCHEMA, annotations_text, read_annotations
from llava_st_ros.annotations.exchange.coco_video import coco_video_text, read_coco_video
from llava_st_ros.annotations.exchange.cvat_video import cvat_video_text, read_cvat_video
from llava_st_ros.annotations.exchange.mot_text import mot_text, read_mot_text
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import Converted
from llava_st_ros.annotations.records import AnnotatedCamera, AnnotatedObject, GroundTruth
from llava_st_ros.records import Task
from support.annotation_files import (
    ANNOTATIONS,
    COCOVID,
    CVAT,
    MOT17,
    TOPIC,
    YOUTUBE_VIS,
)

CAMERA = AnnotatedCamera(TOPIC, 200, 100)
FRAMES = RecordedFrames([10, 20, None, 20, 30, 40, 50, 60])
TOLERANCE = 0.0021  # pixels: positions and lengths are written with three decimals
Writer = Callable[[GroundTruth, str, RecordedFrames], Converted]
EXCHANGE: dict[str, tuple[Callable[..., GroundTruth], Writer, str]] = {
    "coco": (read_coco_video, coco_video_text, ".json"),
    "mot": (read_mot_text, mot_text, ".txt"),
    "cvat": (read_cvat_video, cvat_video_text, ".xml"),
}
_LEFT_OUT = re.compile(r"(?:rows|boxes) .*(?:left out|twice): (\d+)")


class Annotations(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        self._schema = jsonschema.Draft202012Validator(schema)

    def make(self, rng: np.random.Generator) -> Case:
        kind = str(rng.choice(["annotations", "coco", "mot", "cvat"]))
        by_bytes = rng.integers(4) == 0
        if kind in ("annotations", "coco"):
            values = [ANNOTATIONS] if kind == "annotations" else [COCOVID, YOUTUBE_VIS]
            value = copy.deepcopy(values[int(rng.integers(len(values)))])
            if by_bytes:
                data, step = mutate_bytes(rng, json.dumps(value).encode())
            else:
                value, step = mutate_json(rng, value)
                data = json.dumps(value).encode()
        elif by_bytes:
            data, step = mutate_bytes(rng, (MOT17 if kind == "mot" else CVAT).encode())
        else:
            parts = r"[^,\n]+" if kind == "mot" else r'(?<==")[^"]*(?=")|(?<=>)[^<>]+(?=<)'
            text, step = _change_part(rng, MOT17 if kind == "mot" else CVAT, parts)
            data = text.encode("utf-8", "surrogatepass")
        return Case((kind, data), f"{kind}: {step}")

    def check(self, data: Any) -> None:
        kind, content = data
        if kind == "annotations":
            self._check_annotations(content)
            return
        read, write, suffix = EXCHANGE[kind]
        path = self.folder / f"{kind}{suffix}"
        path.write_bytes(content)
        truth = read(path, CAMERA, FRAMES)
        _check_consistent(truth)
        if kind == "mot":
            _check_counts(content, truth)
        path.write_text(annotations_text(truth), encoding="utf-8")
        if (as_annotations := read_annotations(path)).notes:
            raise WrongAcceptanceError(f"as annotations: {as_annotations.notes}")
        _check_boxes(truth, as_annotations)
        written = write(truth, TOPIC, FRAMES).text
        path.write_text(written, encoding="utf-8")
        again = read(path, CAMERA, FRAMES)
        _check_boxes(truth, again)
        if write(again, TOPIC, FRAMES).text != written:
            raise WrongAcceptanceError("what is written changes when it is read and written again")

    def _check_annotations(self, content: bytes) -> None:
        path = self.folder / "annotations.json"
        path.write_bytes(content)
        truth = read_annotations(path)
        _check_consistent(truth)
        text = annotations_text(truth)
        path.write_text(text, encoding="utf-8")
        again = read_annotations(path)
        if again.notes:
            raise WrongAcceptanceError(f"what is written is read with notes: {again.notes}")
        if (again.cameras, again.queries) != (truth.cameras, truth.queries):
            raise WrongAcceptanceError("cameras or queries change when they are written")
        _check_boxes(truth, again)
        if annotations_text(again) != text:
            raise WrongAcceptanceError("what is written changes when it is read and written again")
        if not self._schema.is_valid(json.loads(text)):
            raise WrongAcceptanceError("what is written does not follow the schema")
        value = _with_upper_case_tasks(json.loads(content.decode("utf-8-sig")))
        if error := next(self._schema.iter_errors(value), None):
            raise WrongAcceptanceError(f"accepted against the schema: {error.message[:200]}")


def _change_part(rng: np.random.Generator, text: str, pattern: str) -> tuple[str, str]:
    """Replace one or two values of a text."""
    steps = []
    for _ in range(int(rng.integers(1, 3))):
        parts = list(re.finditer(pattern, text))
        part = parts[int(rng.integers(len(parts)))]
        if rng.integers(2) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", part[0]):
            new = str(float(part[0]) * float(rng.choice([-1, 0, 0.5, 1.5, 2, 1e6, 1e300])))
        else:
            value = HOSTILE_VALUES[int(rng.integers(len(HOSTILE_VALUES)))]
            is_long = isinstance(value, int) and value.bit_length() > 200
            new = "9" * 400 if is_long else str(value)
        text = text[: part.start()] + new + text[part.end() :]
        steps.append(f"{part[0][:20]!r} at {part.start()} is {shown(new)}")
    return text, ", ".join(steps)


def _with_upper_case_tasks(value: dict[str, Any]) -> dict[str, Any]:
    """The reader accepts the name of a task in any case, as every interface does."""
    for query in value.get("queries", []):
        query["task"] = Task.parse(query["task"]).value
    return value


def _check_consistent(truth: GroundTruth) -> None:
    topics = [camera.topic for camera in truth.cameras]
    ids = [item.id for item in truth.objects]
    if len(set(ids)) < len(ids) or len(set(topics)) < len(topics):
        raise WrongAcceptanceError(f"ids {ids} or topics {topics} repeat")
    for item in truth.objects:
        stamps = list(item.boxes)
        if item.topic not in topics or stamps != sorted(stamps):
            raise WrongAcceptanceError(f"object {item.id!r}: {item.topic!r}, stamps {stamps}")
        if not item.keyframes <= item.boxes.keys():
            raise WrongAcceptanceError(f"object {item.id!r} has keyframes without a box")
        for box in item.boxes.values():
            if not (0 <= box.x1 < box.x2 <= 1 and 0 <= box.y1 < box.y2 <= 1):
                raise WrongAcceptanceError(f"object {item.id!r} has the box {box}")
    for query in truth.queries:
        ends = [stamp for span in query.spans for stamp in (span.start, span.end)]
        if ends != sorted(ends) or not set(query.objects) <= set(ids) or query.topic not in topics:
            raise WrongAcceptanceError(f"query {query.id!r}: {ends}, {query.objects}")


def _check_counts(content: bytes, truth: GroundTruth) -> None:
    """Every row of MOT text is a box, or counted."""
    rows = sum(bool(line.strip()) for line in content.decode("utf-8-sig").split("\n"))
    boxes = sum(len(item.boxes) for item in truth.objects)
    counted = sum(int(m[1]) for note in truth.notes if (m := _LEFT_OUT.match(note)))
    if boxes + counted != rows:
        raise WrongAcceptanceError(f"{rows} rows: {boxes} boxes, {counted} counted: {truth.notes}")


def _check_boxes(before: GroundTruth, after: GroundTruth) -> None:
    """The boxes of each object are those before; ids may be replaced by numbers, in order."""
    first, second = ({item.id: _pixels(item, t) for item in t.objects} for t in (before, after))
    if first.keys() == second.keys():
        second = {name: second[name] for name in first}
    if len(first) != len(second):
        raise WrongAcceptanceError(f"{len(first)} objects become {len(second)}")
    for expected, found in zip(first.values(), second.values()):
        if expected.keys() != found.keys():
            raise WrongAcceptanceError(
                f"boxes at {expected.keys() ^ found.keys()} appear or vanish"
            )
        for stamp, corners in found.items():
            if max(abs(a - b) for a, b in zip(corners, expected[stamp])) > TOLERANCE:
                raise WrongAcceptanceError(f"{expected[stamp]} becomes {corners}")


def _pixels(
    item: AnnotatedObject, truth: GroundTruth
) -> dict[int, tuple[float, float, float, float]]:
    camera = truth.camera(item.topic)
    return {s: box.to_pixels(camera.width, camera.height) for s, box in item.boxes.items()}


SURFACE = Annotations
