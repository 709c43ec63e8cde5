"""CVAT for video 1.1: XML with a track for each object (docs.cvat.ai, "XML annotation format").

CVAT exports a box for every frame of a track and marks its keyframes, and reads only the keyframes.
Both kinds of files are read here, by CVAT's rules: a frame without a box has the box interpolated
linearly between its neighbors, by the number of the frame. A box that is outside (``outside="1"``)
ends the object's visibility until the next one that is not; a track that does not end so continues
to the last frame of the task. Frames count from 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from llava_st_ros.annotations.box_rules import Corners
from llava_st_ros.annotations.exchange.number_texts import (
    number_text,
    parse_integer,
    parse_number,
)
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import (
    Converted,
    NumberedTrack,
    TrackReader,
    TrackWriter,
)
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.errors import DataError, shown
from llava_st_ros.files.xml_files import XmlElement, read_xml

REMEDY = "export the task as 'CVAT for video 1.1' and unpack annotations.xml"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHAPES = ("polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton")
_TASKS = (("meta", "task"), ("meta", "job"), ("meta", "project"))


@dataclass(frozen=True)
class _Shape:
    frame: int
    corners: Corners
    outside: bool
    keyframe: bool
    place: str


def read_cvat_video(path: Path, camera: AnnotatedCamera, frames: RecordedFrames) -> GroundTruth:
    """Read the tracks of a task.

    Args:
        path: The file, ``annotations.xml``.
        camera: The camera of its boxes.
        frames: The frames of the camera's topic.

    Raises:
        DataError: The file cannot be read, is another export of CVAT, or an element is not valid;
            the error names its line.
    """
    root = read_xml(path, DataError, REMEDY)
    tracks = [child for child in root.children if child.tag == "track"]
    if root.tag != "annotations" or (not tracks and root.child("image")):
        what = "is CVAT for images" if root.child("image") else f"has the element {root.tag[:80]!r}"
        raise DataError(f"{path} {what}; expected tracks of a video", REMEDY)
    tasks = {track.attributes.get("task_id") for track in tracks}
    if len(tasks) > 1:
        raise DataError(f"{path} has tracks of {len(tasks)} tasks; expected one task", REMEDY)
    reader = TrackReader(str(path), camera, frames)
    _check_size(root, reader)
    last = _last_frame(root, reader)
    seen: dict[str, int] = {}
    for number, track in enumerate(tracks):
        name = track.attributes.get("id", str(number))
        if name in seen:
            raise DataError(
                f"{path}: line {track.line}: track {shown(name)} is in line {seen[name]} already"
            )
        seen[name] = track.line
        _read_track(track, name, last, reader)
    reader.notes.add(
        "elements beside the tracks, left out",
        count=sum(c.tag not in ("track", "version", "meta") for c in root.children),
    )
    return reader.ground_truth()


def cvat_video_text(ground_truth: GroundTruth, topic: str, frames: RecordedFrames) -> Converted:
    """Write the objects of a topic as tracks of CVAT for video 1.1.

    Every box is written. Where an object disappears, a box that is outside follows.

    Raises:
        KeyError: The topic is not annotated.
    """
    writer = TrackWriter(ground_truth, topic, frames)
    size = writer.camera.width, writer.camera.height
    labels = {track.number: _label(track, writer) for track in writer.tracks}
    meta = (
        ("name", _clean(topic.strip("/") or "recording")),
        ("size", str(len(frames))),
        ("mode", "interpolation"),
        ("start_frame", "0"),
        ("stop_frame", str(len(frames) - 1)),
    )
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", " <version>1.1</version>"]
    lines += [" <meta>", "  <task>"]
    lines += [f"   <{tag}>{escape(text)}</{tag}>" for tag, text in meta]
    lines.append("   <labels>")
    lines += [
        f"    <label><name>{escape(v)}</name></label>" for v in dict.fromkeys(labels.values())
    ]
    lines.append("   </labels>")
    lines.append(
        f"   <original_size><width>{size[0]}</width><height>{size[1]}</height></original_size>"
    )
    lines += ["  </task>", " </meta>"]
    for track in writer.tracks:
        label = quoteattr(labels[track.number])
        lines.append(f' <track id="{track.number}" label={label} source="manual">')
        lines += [_box_line(shape) for shape in _shapes(track, len(frames))]
        lines.append(" </track>")
    lines.append("</annotations>")
    return writer.converted("\n".join(lines) + "\n")


def _read_track(track: XmlElement, name: str, last: int, reader: TrackReader) -> None:
    label = track.attributes.get("label")
    place = f"line {track.line}"
    if label is None:
        raise DataError(f"{reader.name}: {place}: track {shown(name)} has no label")
    reader.add_track(name, label, place)
    shapes = []
    for child in track.children:
        if child.tag == "box":
            shapes.append(_read_shape(child, reader))
        else:
            kind = child.tag if child.tag in _SHAPES else "unknown"
            reader.notes.add(
                f"{kind} elements of tracks, which are not boxes, left out", f"line {child.line}"
            )
    for shape in _all_frames(_in_order(shapes, name, reader), last, reader):
        reader.add_box(name, shape.frame, shape.corners, shape.place, keyframe=shape.keyframe)


def _read_shape(box: XmlElement, reader: TrackReader) -> _Shape:
    place = f"line {box.line}"
    where = f"{reader.name}: {place}"
    values = box.attributes
    frame = parse_integer(values.get("frame"), f"{where}: frame", REMEDY)
    x1, y1, x2, y2 = (
        parse_number(values.get(name), f"{where}: {name}", REMEDY)
        for name in ("xtl", "ytl", "xbr", "ybr")
    )
    outside = _flag(values.get("outside", "0"), f"{where}: outside")
    keyframe = _flag(values.get("keyframe", "1"), f"{where}: keyframe")
    corners = x1, y1, x2, y2
    angle = parse_number(values.get("rotation", "0"), f"{where}: rotation", REMEDY)
    if angle % 360:
        corners = _enclosing(corners, angle)
        reader.notes.add("rotated boxes, enclosed by upright ones", place)
    if _flag(values.get("occluded", "0"), f"{where}: occluded") and not outside:
        reader.notes.add("marks of occluded boxes, left out", place)
    reader.notes.add("attributes of boxes, left out", place, len(box.children))
    return _Shape(frame, corners, outside, keyframe, place)


def _in_order(shapes: Sequence[_Shape], name: str, reader: TrackReader) -> list[_Shape]:
    """Return a track's boxes by frame, one for each."""
    by_frame: dict[int, _Shape] = {}
    previous = -1
    for shape in shapes:
        known = by_frame.setdefault(shape.frame, shape)
        if known is not shape:
            if (known.corners, known.outside) != (shape.corners, shape.outside):
                raise DataError(
                    f"{reader.name}: {shape.place}: track {shown(name)} has another box of frame "
                    f"{shape.frame} in {known.place}"
                )
            reader.notes.add("boxes given twice", shape.place)
        if shape.frame < previous:
            reader.notes.add("boxes not in the order of their frames, sorted", shape.place)
        previous = max(previous, shape.frame)
    return [by_frame[frame] for frame in sorted(by_frame)]


def _all_frames(shapes: Sequence[_Shape], last: int, reader: TrackReader) -> Iterator[_Shape]:
    """Yield the visible boxes of a track, with those of the frames that the file leaves out."""
    end = min(last + 1, len(reader.frames))
    for index, shape in enumerate(shapes):
        if shape.outside:
            continue
        yield shape
        following = shapes[index + 1] if index + 1 < len(shapes) else None
        stop = min(following.frame, len(reader.frames)) if following else end
        between = range(shape.frame + 1, stop)
        kind = "interpolated between keyframes" if following else "continued to the last frame"
        reader.notes.add(f"boxes {kind}", shape.place, len(between))
        for frame in between:
            corners = _between(shape, following, frame) if following else shape.corners
            yield _Shape(frame, corners, False, False, shape.place)


def _between(left: _Shape, right: _Shape, frame: int) -> Corners:
    share = (frame - left.frame) / (right.frame - left.frame)
    x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(left.corners, right.corners))
    return x1, y1, x2, y2


def _enclosing(corners: Corners, degrees: float) -> Corners:
    """Return the upright box around a box that is rotated about its center."""
    x1, y1, x2, y2 = corners
    angle = math.radians(degrees)
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    width, height = abs(x2 - x1), abs(y2 - y1)
    half_x = (width * cosine + height * sine) / 2
    half_y = (width * sine + height * cosine) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _check_size(root: XmlElement, reader: TrackReader) -> None:
    for path in _TASKS:
        size = root.child(*path, "original_size")
        if size is None:
            continue
        place = f"line {size.line}"
        sides = [size.child(side) for side in ("width", "height")]
        where = f"{reader.name}: {place}: original_size"
        width, height = (parse_integer(s.text if s else None, where, REMEDY) for s in sides)
        reader.check_size(width, height, place)


def _last_frame(root: XmlElement, reader: TrackReader) -> int:
    """Return the last frame of the task, or of the recording if the file names none."""
    for path in _TASKS:
        stop = root.child(*path, "stop_frame")
        if stop is not None:
            where = f"{reader.name}: line {stop.line}: stop_frame"
            return parse_integer(stop.text, where, REMEDY)
    return len(reader.frames) - 1


def _flag(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise DataError(f"{where} is {shown(text)}; expected 0 or 1", REMEDY)
    return text == "1"


def _label(track: NumberedTrack, writer: TrackWriter) -> str:
    label = _clean(track.label)
    if label != track.label:
        writer.notes.add("labels with characters that XML does not have, replaced", label)
    return label


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _shapes(track: NumberedTrack, frames: int) -> Iterator[_Shape]:
    """Yield a track's boxes, and one that is outside behind each that no other follows."""
    previous = -2
    for index, box in enumerate(track.boxes):
        is_first = box.frame != previous + 1
        yield _Shape(box.frame, box.corners, False, box.keyframe or is_first, "")
        previous = box.frame
        following = track.boxes[index + 1].frame if index + 1 < len(track.boxes) else frames
        if following != box.frame + 1:
            yield _Shape(box.frame + 1, box.corners, True, True, "")


def _box_line(shape: _Shape) -> str:
    sides = zip(("xtl", "ytl", "xbr", "ybr"), shape.corners)
    corners = " ".join(f'{name}="{number_text(value)}"' for name, value in sides)
    return (
        f'  <box frame="{shape.frame}" keyframe="{shape.keyframe:d}" outside="{shape.outside:d}" '
        f'occluded="0" {corners} z_order="0"/>'
    )
