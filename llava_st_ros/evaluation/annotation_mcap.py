"""Predicted and true boxes of a run as MCAP, to scrub beside the bag in Foxglove or Lichtblick.

For every image of the recording there is a ``foxglove.ImageAnnotations`` message for what was
predicted and one for what is true, on topics below the camera's. Their timestamps are the image's
header stamp and their log times its time of recording, so that both are shown with the image.
Predicted boxes are solid, true ones dashed. Schema: https://docs.foxglove.dev/docs/sdk/schemas
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.atomic_files import atomic_file
from llava_st_ros.errors import DataError, FrameError
from llava_st_ros.evaluation.recording import covering_box
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.media.bags import Bag, ImageMessage
from llava_st_ros.media.image_decoding import decode_message
from llava_st_ros.records import NANOSECONDS, Box, BoxTube

if TYPE_CHECKING:
    from mcap.writer import Writer

SCHEMA = "foxglove.ImageAnnotations"
MAX_LABEL = 60  # characters
LINE_LOOP, LINE_LIST = 2, 4  # types of a PointsAnnotation
_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TIME = _object(sec={"type": "integer"}, nsec={"type": "integer"})
_POINT = _object(x=_NUMBER, y=_NUMBER)
_COLOR = _object(r=_NUMBER, g=_NUMBER, b=_NUMBER, a=_NUMBER)
_METADATA = _list(_object(key=_TEXT, value=_TEXT))
JSON_SCHEMA = {
    "title": SCHEMA,
    **_object(
        circles=_list(
            _object(
                timestamp=_TIME,
                position=_POINT,
                diameter=_NUMBER,
                thickness=_NUMBER,
                fill_color=_COLOR,
                outline_color=_COLOR,
                metadata=_METADATA,
            )
        ),
        points=_list(
            _object(
                timestamp=_TIME,
                type={"type": "integer"},
                points=_list(_POINT),
                outline_color=_COLOR,
                outline_colors=_list(_COLOR),
                fill_color=_COLOR,
                thickness=_NUMBER,
                metadata=_METADATA,
            )
        ),
        texts=_list(
            _object(
                timestamp=_TIME,
                position=_POINT,
                text=_TEXT,
                font_size=_NUMBER,
                text_color=_COLOR,
                background_color=_COLOR,
                metadata=_METADATA,
            )
        ),
    ),
}


@dataclass(frozen=True)
class _Style:
    name: str
    mark: str
    color: dict[str, float]
    is_dashed: bool


PREDICTED = _Style("predicted", "P", {"r": 1.0, "g": 0.55, "b": 0.1, "a": 1.0}, False)
TRUE = _Style("true", "T", {"r": 0.36, "g": 0.82, "b": 1.0, "a": 1.0}, True)
_BLACK = {"r": 0.0, "g": 0.0, "b": 0.0, "a": 1.0}
_CLEAR = {"r": 0.0, "g": 0.0, "b": 0.0, "a": 0.0}


def write_annotation_mcap(path: Path, bag: Path, cases: Sequence[Case]) -> int:
    """Write the annotations of a recording's images.

    Args:
        path: The MCAP file.
        bag: The recording.
        cases: Its cases.

    Returns:
        The number of images.

    Raises:
        DataError: The recording cannot be read, or has no such topic.
        OSError: The file cannot be written.
    """
    from mcap.writer import Writer

    by_topic: dict[str, list[Case]] = {}
    for case in cases:
        by_topic.setdefault(case.topic, []).append(case)
    images = 0
    with atomic_file(path) as part, part.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="", library="llava_st_ros")
        schema = writer.register_schema(SCHEMA, "jsonschema", json.dumps(JSON_SCHEMA).encode())
        cameras = [_Camera(writer, schema, bag, topic, on_it) for topic, on_it in by_topic.items()]
        for _, _, camera, message in heapq.merge(
            *(camera.messages(number) for number, camera in enumerate(cameras))
        ):
            images += camera.write(message)
        writer.finish()
        if not images:
            raise DataError(f"no image of {bag} can be read")
    return images


class _Camera:
    """One camera's topics in the file."""

    def __init__(
        self, writer: Writer, schema: int, bag: Path, topic: str, cases: Sequence[Case]
    ) -> None:
        self._writer = writer
        self._bag = Bag(bag)
        self._topic = self._bag.image_topic(topic or None)
        self._size: tuple[int, int] | None = None
        self._lines = [
            (
                style,
                writer.register_channel(
                    f"{self._topic.name}/llava_st/{style.name}", "json", schema
                ),
                [(case, line, _tube(line)) for case in cases if (line := line_of(case))],
            )
            for style, line_of in (
                (PREDICTED, lambda case: case.predicted),
                (TRUE, lambda case: case.expected),
            )
        ]

    def messages(self, number: int) -> Iterator[tuple[int, int, _Camera, ImageMessage]]:
        """Yield the messages with their times of recording; ``number`` orders equal times."""
        for message in self._bag.images(self._topic):
            yield message.recorded, number, self, message

    def write(self, message: ImageMessage) -> bool:
        """Write the annotations of an image; return whether it could be read."""
        try:
            stamp = message.stamp
            if self._size is None:
                image = decode_message(message.message)
                self._size = image.shape[1], image.shape[0]
        except FrameError:
            return False
        for style, channel, lines in self._lines:
            annotations = _annotations(stamp, style, lines, self._size)
            self._writer.add_message(
                channel, message.recorded, json.dumps(annotations).encode(), message.recorded
            )
        return True


def _tube(line: Timeline) -> BoxTube:
    stamps = tuple(sorted(line.boxes))
    return BoxTube(stamps, tuple(line.boxes[stamp] for stamp in stamps))


def _annotations(
    stamp: int,
    style: _Style,
    lines: Sequence[tuple[Case, Timeline, BoxTube]],
    size: tuple[int, int],
) -> dict[str, Any]:
    """The message of an image: a box with a label for each query, or the label alone."""
    time = {"sec": stamp // NANOSECONDS, "nsec": stamp % NANOSECONDS}
    font = max(8.0, size[1] / 30)
    points, texts, alone = [], [], 0
    for case, line, tube in lines:
        box = covering_box(tube, stamp)
        if box is None and not any(start <= stamp <= end for start, end in line.spans):
            continue
        if box is None:
            alone += 1
            place = {"x": 2.0, "y": alone * font * 1.4 * (2 if style is TRUE else 1)}
        else:
            x1, y1, _, y2 = box.to_pixels(*size)
            points.append(_outline(box, style, size, time, case))
            place = {"x": x1, "y": y2 + font * 1.2 if style.is_dashed else max(font, y1 - 2)}
        texts.append(
            {
                "timestamp": time,
                "position": place,
                "text": f"{style.mark}: {case.query[:MAX_LABEL]}",
                "font_size": font,
                "text_color": _BLACK,
                "background_color": style.color,
                "metadata": [],
            }
        )
    return {"circles": [], "points": points, "texts": texts}


def _outline(
    box: Box, style: _Style, size: tuple[int, int], time: Mapping[str, int], case: Case
) -> dict[str, Any]:
    x1, y1, x2, y2 = box.to_pixels(*size)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    if style.is_dashed:
        corners = list(_dashes(corners, max(3.0, size[1] / 60)))
    return {
        "timestamp": time,
        "type": LINE_LIST if style.is_dashed else LINE_LOOP,
        "points": [{"x": round(x, 2), "y": round(y, 2)} for x, y in corners],
        "outline_color": style.color,
        "outline_colors": [],
        "fill_color": _CLEAR,
        "thickness": max(1.0, size[1] / 240),
        "metadata": [{"key": "query", "value": case.query}, {"key": "case", "value": case.id}],
    }


def _dashes(corners: Sequence[tuple[float, float]], dash: float) -> Iterator[tuple[float, float]]:
    """Yield the ends of dashes of a length along a closed line."""
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0])):
        length = abs(x2 - x1) + abs(y2 - y1)  # sides are parallel to an axis
        count = max(1, round(length / (2 * dash)))
        for number in range(count):
            for share in (number / count, (number + 0.5) / count):
                yield x1 + share * (x2 - x1), y1 + share * (y2 - y1)
