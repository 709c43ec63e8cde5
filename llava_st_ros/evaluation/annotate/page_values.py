"""Objects and queries as the page's JSON: boxes in pixels, stamps as decimal text.

JavaScript's numbers cannot hold a stamp in nanoseconds. An object of the page has, beyond what the
file has, the stamps from which it is not visible; a query, whether it was marked "no match".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from llava_st_ros.annotations.annotation_file import MAX_STAMP
from llava_st_ros.annotations.box_rules import PIXEL_DIGITS, corners_to_write
from llava_st_ros.annotations.name_rules import checked_id, checked_words
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
)
from llava_st_ros.errors import DataError, shown
from llava_st_ros.query_rules import MAX_QUERY_CHARACTERS, as_float, checked_text
from llava_st_ros.records import Box, Span, Task

_STAMP_DIGITS = len(str(MAX_STAMP))


@dataclass(frozen=True)
class PageObject:
    """An object, and what the annotation file does not hold of it.

    Attributes:
        value: The object.
        ends: Stamps (ns) from which it is not visible, until its next keyframe.
    """

    value: AnnotatedObject
    ends: frozenset[int] = frozenset()

    def to_json(self, camera: AnnotatedCamera) -> dict[str, Any]:
        """Return the page's JSON."""
        size = camera.width, camera.height
        return {
            "id": self.value.id,
            "label": self.value.label,
            "topic": self.value.topic,
            "boxes": {
                str(stamp): list(corners_to_write(box, size))
                for stamp, box in self.value.boxes.items()
            },
            "keyframes": [str(stamp) for stamp in sorted(self.value.keyframes)],
            "ends": [str(stamp) for stamp in sorted(self.ends)],
        }


@dataclass(frozen=True)
class PageQuery:
    """A query, which may be incomplete.

    Attributes:
        value: The query; without spans it may be incomplete.
        no_match: Whether it was marked "no match"; then it has no spans.
    """

    value: AnnotatedQuery
    no_match: bool

    @property
    def missing(self) -> str:
        """What it lacks to be written to the file; "" if it is complete."""
        if self.value.spans or self.no_match:
            return ""
        return 'it has no span and is not marked "no match"'

    def to_json(self) -> dict[str, Any]:
        """Return the page's JSON."""
        return {
            "id": self.value.id,
            "text": self.value.text,
            "task": self.value.task.value,
            "topic": self.value.topic,
            "spans": [[str(span.start), str(span.end)] for span in self.value.spans],
            "objects": list(self.value.objects),
            "noMatch": self.no_match,
        }


def object_from_json(data: Any, camera: AnnotatedCamera) -> PageObject:
    """Read an object of the page's JSON.

    Raises:
        DataError: A value is missing, of another type or outside the image.
    """
    fields = _fields(data, "object", ("id", "label", "topic", "boxes", "keyframes", "ends"))
    name = f"object {shown(fields['id'])}"
    boxes = {
        _stamp(stamp, name): _box(corners, f"{name} at {stamp}", camera)
        for stamp, corners in _mapping(fields["boxes"], f"boxes of {name}").items()
    }
    keyframes = frozenset(_stamps(fields["keyframes"], f"keyframes of {name}"))
    if not keyframes <= boxes.keys():
        raise DataError(f"{name} has a keyframe without a box")
    value = AnnotatedObject(
        id=checked_id(fields["id"], name),
        label=_label(fields["label"], name),
        topic=camera.topic,
        boxes=dict(sorted(boxes.items())),
        keyframes=keyframes,
    )
    return PageObject(value, frozenset(_stamps(fields["ends"], f"ends of {name}")))


def query_from_json(data: Any, camera: AnnotatedCamera) -> PageQuery:
    """Read a query of the page's JSON.

    Raises:
        DataError: A value is missing or of another type, or spans are not in order and apart.
        QueryError: Its text or task is invalid.
    """
    names = ("id", "text", "task", "topic", "spans", "objects", "noMatch")
    fields = _fields(data, "query", names)
    name = f"query {shown(fields['id'])}"
    spans = tuple(_span(pair, name) for pair in _list(fields["spans"], f"spans of {name}"))
    if any(after.start <= before.end for before, after in pairwise(spans)):
        raise DataError(f"the spans of {name} overlap or are not in order")
    if not isinstance(fields["noMatch"], bool) or (fields["noMatch"] and spans):
        raise DataError(f'{name} is "no match" and has spans')
    objects = _list(fields["objects"], f"objects of {name}")
    value = AnnotatedQuery(
        id=checked_id(fields["id"], name),
        text=checked_text(fields["text"]).strip(),
        task=Task.parse(fields["task"] if isinstance(fields["task"], str) else ""),
        topic=camera.topic,
        spans=spans,
        objects=tuple(dict.fromkeys(checked_id(item, f"objects of {name}") for item in objects)),
    )
    return PageQuery(value, fields["noMatch"])


def with_objects(query: PageQuery, names: Iterable[str]) -> PageQuery:
    """Return a query that is linked to other objects."""
    return replace(query, value=replace(query.value, objects=tuple(names)))


def topic_of(data: Any) -> str:
    """Return the topic of an object or query of the page's JSON. Raises DataError."""
    topic = data.get("topic") if isinstance(data, Mapping) else None
    if not isinstance(topic, str):
        raise DataError(f"the topic is {shown(topic)}; expected text")
    return topic


def _fields(data: Any, kind: str, names: Sequence[str]) -> Mapping[str, Any]:
    values = _mapping(data, kind)
    if set(values) != set(names):
        raise DataError(f"{kind} has the fields {shown(sorted(values))}; expected {list(names)}")
    return values


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{name}: {shown(value)} is not a JSON object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{name}: {shown(value)} is not a JSON list")
    return value


def _label(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_QUERY_CHARACTERS:
        raise DataError(f"{name}: label is {shown(value)}; expected a short text")
    return checked_words("label", value, name)


def _stamp(value: Any, name: str) -> int:
    is_number = isinstance(value, str) and value.isascii() and value.isdigit()
    if not is_number or len(value) > _STAMP_DIGITS or int(value) > MAX_STAMP:
        raise DataError(f"{name}: {shown(value)} is not a stamp: ns, 0 to {MAX_STAMP}")
    return int(value)


def _stamps(value: Any, name: str) -> list[int]:
    return [_stamp(item, name) for item in _list(value, name)]


def _span(value: Any, name: str) -> Span:
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{name}: {shown(value)} is not a start and an end")
    start, end = (_stamp(item, name) for item in value)
    if end < start:
        raise DataError(f"a span of {name} ends before it starts")
    return Span(start, end)


def _box(value: Any, name: str, camera: AnnotatedCamera) -> Box:
    corners = [as_float(item) for item in value] if isinstance(value, list) else []
    if len(corners) == 4 and None not in corners:
        # As the file has them: a box without area there would be lost.
        x1, y1, x2, y2 = (round(corner, PIXEL_DIGITS) for corner in corners if corner is not None)
        if 0 <= x1 < x2 <= camera.width and 0 <= y1 < y2 <= camera.height:
            return Box.from_pixels((x1, y1, x2, y2), camera.width, camera.height)
    raise DataError(
        f"{name}: box {shown(value)} is not x1 < x2, y1 < y2 inside the image of"
        f" {camera.width}x{camera.height} pixels"
    )
