"""Annotation files: a recording's ground truth as JSON (format in ``annotations.schema.json``).

The file has boxes in pixels of the source image and stamps in ns of the image headers. What has one
reading only is accepted and noted: boxes and spans out of order, corners that are swapped, boxes
that reach beyond the image. What has several readings is an error that names its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.annotations.box_rules import box_in_image, corners_to_write
from llava_st_ros.annotations.change_notes import ChangeNotes
from llava_st_ros.annotations.name_rules import checked_id, checked_words
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.schema import build
from llava_st_ros.query_rules import checked_text
from llava_st_ros.records import Box, Span, Task

FORMAT = "llava_st_ros/annotations"
VERSION = 1
FILE_NAME = "annotations.json"
SUFFIX = ".annotations.json"
SCHEMA = Path(__file__).with_name("annotations.schema.json")
REMEDY = "annotate the recording with 'llava-st eval annotate', or name its file"
MAX_BYTES = 1 << 30  # 10 objects on 30 minutes at 30 Hz are 60 MB
MAX_STAMP = 2**63 - 1  # ns
MAX_PIXELS = 1 << 16  # of a side of an image


def annotation_path(recording: Path) -> Path:
    """Return where a recording's annotations are expected.

    In the folder of a bag, beside a single file.

    >>> annotation_path(Path("run.mcap")).name
    'run.annotations.json'
    """
    if recording.is_dir():
        return recording / FILE_NAME
    name = recording.name.removesuffix(".zstd")  # run.mcap.zstd
    return recording.with_name(Path(name).stem + SUFFIX)


def read_annotations(path: Path) -> GroundTruth:
    """Read an annotation file.

    Returns:
        The annotations; ``notes`` has a line for each kind of change that was made.

    Raises:
        DataError: The file cannot be read, or contains something that has no single reading; the
            error names the file and the place.
    """
    loaded = read_json(path, DataError, REMEDY, max_bytes=MAX_BYTES)
    return parse_annotations(loaded, str(path))


def parse_annotations(loaded: dict[str, Any], name: str) -> GroundTruth:
    """Return the annotations of the value of the file ``name``, as ``read_annotations`` does."""
    if loaded.get("format") != FORMAT:
        raise DataError(f"{name} is not an annotation file: format is not {FORMAT!r}", REMEDY)
    if loaded.get("version") != VERSION:
        raise DataError(
            f"{name} has version {loaded.get('version')!r} of the format; this program reads "
            f"version {VERSION}"
        )
    content = {key: value for key, value in loaded.items() if key != "$schema"}  # set by editors
    return _Reader(build(_File, content, name, DataError), name).ground_truth()


def annotations_json(ground_truth: GroundTruth) -> dict[str, Any]:
    """Return annotations as the file's value."""
    sizes = {camera.topic: (camera.width, camera.height) for camera in ground_truth.cameras}
    return {
        "format": FORMAT,
        "version": VERSION,
        "cameras": [
            {"topic": camera.topic, "width": camera.width, "height": camera.height}
            for camera in ground_truth.cameras
        ],
        "objects": [
            {
                "id": item.id,
                "label": item.label,
                "topic": item.topic,
                "boxes": [
                    _box_json(stamp, item.boxes[stamp], item, sizes[item.topic])
                    for stamp in sorted(item.boxes)
                ],
            }
            for item in ground_truth.objects
        ],
        "queries": [_query_json(query) for query in ground_truth.queries],
    }


def write_annotations(path: Path, ground_truth: GroundTruth) -> None:
    """Write an annotation file, atomically.

    Raises:
        DataError: A box has a corner that is no number.
        OSError: The file cannot be written.
    """
    write_text(path, annotations_text(ground_truth))


def annotations_text(ground_truth: GroundTruth) -> str:
    """Return the text of an annotation file: a line per box and query, so that diffs are small.

    Raises:
        DataError: A box has a corner that is no number.
    """
    value = annotations_json(ground_truth)
    objects = [
        json.dumps({k: v for k, v in item.items() if k != "boxes"}, ensure_ascii=False)[:-1]
        + ', "boxes": ['
        + _lines(item["boxes"], "   ")
        + "]}"
        for item in value["objects"]
    ]
    listed = ",".join(f"\n  {item}" for item in objects)
    return (
        f'{{\n "format": {json.dumps(FORMAT)},\n "version": {VERSION},\n'
        f' "cameras": [{_lines(value["cameras"])}],\n'
        f' "objects": [{listed}],\n'
        f' "queries": [{_lines(value["queries"])}]\n}}\n'
    )


def check_image_size(ground_truth: GroundTruth, topic: str, size: tuple[int, int]) -> None:
    """Compare the annotated size of a topic's images with the real one.

    Args:
        ground_truth: The annotations.
        topic: The topic, one of ``ground_truth.cameras``.
        size: Width and height of its images in pixels.

    Raises:
        DataError: The images have another size, so that the boxes mean other places.
    """
    camera = ground_truth.camera(topic)
    if size != (camera.width, camera.height):
        raise DataError(
            f"the annotations of {topic or 'the footage'} are of {camera.width} x {camera.height} "
            f"images, but its images are {size[0]} x {size[1]}",
            "correct the camera's width and height, or use the annotations of this recording",
        )


def check_footage(ground_truth: GroundTruth, topic: str, stamps: Sequence[int]) -> list[str]:
    """Compare the annotations of a topic with the stamps of its frames.

    Args:
        ground_truth: The annotations.
        topic: The topic.
        stamps: The stamps of the topic's frames (ns).

    Returns:
        Notes on what does not agree, one line each: it cannot be scored.
    """
    known, notes = set(stamps), []
    first, last = min(stamps, default=0), max(stamps, default=-1)
    for item in ground_truth.objects:
        if item.topic != topic:
            continue
        if unknown := sorted(item.boxes.keys() - known):
            outside = sum(not first <= stamp <= last for stamp in unknown)
            notes.append(
                f"object {item.id!r}: {len(unknown)} of {len(item.boxes)} boxes have the stamp of "
                f"no frame ({outside} outside the recording), the first {unknown[0]}"
            )
    for query in ground_truth.queries:
        if query.topic != topic:
            continue
        outside = sum(span.end < first or span.start > last for span in query.spans)
        if outside:
            notes.append(
                f"query {query.id!r}: {outside} of {len(query.spans)} spans are outside the "
                "recording"
            )
    return notes


@dataclass(frozen=True)
class _Camera:
    topic: str
    width: int
    height: int


@dataclass(frozen=True)
class _Box:
    stamp: int
    box: tuple[float, float, float, float]
    interpolated: bool = False


@dataclass(frozen=True)
class _Object:
    id: str
    label: str
    topic: str
    boxes: tuple[Any, ...]  # of _Box


@dataclass(frozen=True)
class _Query:
    id: str
    text: str
    task: str
    topic: str
    spans: tuple[tuple[int, int], ...] = ()
    objects: tuple[str, ...] = ()
    no_match: bool = False


@dataclass(frozen=True)
class _File:
    format: str
    version: int
    cameras: tuple[_Camera, ...]
    objects: tuple[_Object, ...] = ()
    queries: tuple[_Query, ...] = ()


class _Reader:
    def __init__(self, file: _File, name: str) -> None:
        self._file, self._name, self._notes = file, name, ChangeNotes()

    def ground_truth(self) -> GroundTruth:
        file = self._file
        self._unique("cameras", "topic", [camera.topic for camera in file.cameras])
        self._unique("objects", "id", [item.id for item in file.objects])
        self._unique("queries", "id", [query.id for query in file.queries])
        for number, camera in enumerate(file.cameras):
            checked_words("topic", camera.topic, f"{self._name}: cameras[{number}]")
            for side in ("width", "height"):
                if not 1 <= getattr(camera, side) <= MAX_PIXELS:
                    self._fail(
                        f"cameras[{number}]: {side} is {getattr(camera, side)}; expected 1 to "
                        f"{MAX_PIXELS} pixels"
                    )
        self._cameras = {camera.topic: camera for camera in file.cameras}
        objects = tuple(self._object(item, f"objects[{n}]") for n, item in enumerate(file.objects))
        self._topics = {item.id: item.topic for item in objects}
        queries = tuple(self._query(query, f"queries[{n}]") for n, query in enumerate(file.queries))
        cameras = tuple(AnnotatedCamera(c.topic, c.width, c.height) for c in file.cameras)
        return GroundTruth(cameras, objects, queries, self._notes.lines())

    def _fail(self, problem: str) -> None:
        raise DataError(f"{self._name}: {problem}")

    def _checked(self, place: str, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except LlavaStError as error:
            raise DataError(f"{self._name}: {place}: {error.problem}", error.remedy) from error

    def _unique(self, section: str, key: str, names: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for number, name in enumerate(names):
            if name in first:
                self._fail(
                    f"{section}[{number}] has the {key} {name!r} of {section}[{first[name]}]"
                )
            first[name] = number

    def _topic(self, topic: str, place: str) -> None:
        if topic not in self._cameras:
            known = ", ".join(map(repr, self._cameras)) or "none"
            self._fail(f"{place}: topic {topic!r} is none of the cameras ({known})")

    def _object(self, item: _Object, place: str) -> AnnotatedObject:
        checked_id(item.id, f"{self._name}: {place}")
        checked_words("label", item.label, f"{self._name}: {place}")
        self._topic(item.topic, place)
        camera, previous = self._cameras[item.topic], -1
        boxes: dict[int, Box] = {}
        keyframes: set[int] = set()
        for number, value in enumerate(item.boxes):
            at = f"{place}.boxes[{number}]"
            entry = _box_entry(value, f"{self._name}: {at}")
            if not 0 <= entry.stamp <= MAX_STAMP:
                self._fail(f"{at}: stamp is {entry.stamp}; expected ns, 0 to {MAX_STAMP}")
            box = box_in_image(entry.box, (camera.width, camera.height), self._notes, at)
            if entry.stamp in boxes:
                if box is not None and box != boxes[entry.stamp]:
                    self._fail(f"{at}: stamp {entry.stamp} has another box already")
                self._notes.add("boxes given twice", at)
                continue
            if entry.stamp < previous:
                self._notes.add("boxes not in the order of their stamps, sorted", at)
            previous = max(previous, entry.stamp)
            if box is None:
                continue
            boxes[entry.stamp] = box
            if not entry.interpolated:
                keyframes.add(entry.stamp)
        ordered = {stamp: boxes[stamp] for stamp in sorted(boxes)}
        return AnnotatedObject(item.id, item.label, item.topic, ordered, frozenset(keyframes))

    def _query(self, query: _Query, place: str) -> AnnotatedQuery:
        checked_id(query.id, f"{self._name}: {place}")
        self._checked(place, lambda: checked_text(query.text))
        task = self._checked(place, lambda: Task.parse(query.task))
        self._topic(query.topic, place)
        if query.no_match and (query.spans or query.objects):
            self._fail(f"{place}: no_match is true, but it has spans or objects")
        if not query.no_match and not query.spans:
            self._fail(f"{place}: it has no spans; a query that matches nothing has no_match true")
        for name in query.objects:
            if name not in self._topics:
                self._fail(f"{place}: object {name!r} is none of the objects")
            if self._topics[name] != query.topic:
                self._fail(f"{place}: object {name!r} is of topic {self._topics[name]!r}")
        if len(set(query.objects)) < len(query.objects):
            self._notes.add("objects listed twice by a query", place)
        spans = tuple(self._spans(query.spans, place))
        objects = tuple(dict.fromkeys(query.objects))
        return AnnotatedQuery(query.id, query.text, task, query.topic, spans, objects)

    def _spans(self, spans: Sequence[tuple[int, int]], place: str) -> Iterator[Span]:
        for number, (start, end) in enumerate(spans):
            at = f"{place}.spans[{number}]"
            if not 0 <= start <= end <= MAX_STAMP:
                self._fail(f"{at} is {start} to {end}; expected start <= end, in ns")
        ordered = sorted(spans)
        if ordered != list(spans):
            self._notes.add("spans not in order, sorted", place)
        merged: list[tuple[int, int]] = []
        for start, end in ordered:
            if merged and start <= merged[-1][1]:
                self._notes.add("spans that overlap, merged", place)
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return (Span(start, end) for start, end in merged)


def _box_entry(value: Any, where: str) -> _Box:
    """Return a box of the file.

    A valid one is read here: ``build`` takes 10 times as long. It raises the error of any other.
    """
    if type(value) is dict and value.keys() <= {"stamp", "box", "interpolated"}:
        stamp, corners = value.get("stamp"), value.get("box")
        interpolated = value.get("interpolated", False)
        if (
            type(stamp) is int
            and type(interpolated) is bool
            and type(corners) is list
            and len(corners) == 4
            and all(type(v) is int or (type(v) is float and math.isfinite(v)) for v in corners)
        ):
            x1, y1, x2, y2 = map(float, corners)
            return _Box(stamp, (x1, y1, x2, y2), interpolated)
    return build(_Box, value, where, DataError)


def _box_json(stamp: int, box: Box, item: AnnotatedObject, size: tuple[int, int]) -> dict[str, Any]:
    corners = list(corners_to_write(box, size))
    if not all(map(math.isfinite, corners)):
        raise DataError(f"object {item.id!r} has the box {corners} at stamp {stamp}")
    entry: dict[str, Any] = {"stamp": stamp, "box": corners}
    return entry if stamp in item.keyframes else {**entry, "interpolated": True}


def _query_json(query: AnnotatedQuery) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": query.id,
        "text": query.text,
        "task": query.task.value,
        "topic": query.topic,
    }
    if query.no_match:
        return {**entry, "no_match": True}
    return {
        **entry,
        "spans": [[span.start, span.end] for span in query.spans],
        "objects": list(query.objects),
    }


def _lines(values: Sequence[Any], indent: str = "  ") -> str:
    return ",".join(f"\n{indent}{json.dumps(value, ensure_ascii=False)}" for value in values)
