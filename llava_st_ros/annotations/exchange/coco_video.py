"""COCO for videos, in the two forms that data sets use.

TAO, CocoVID and their kin list the images of each video, and each box with its image and track::

    {"videos": [{"id": 1, "name": "a", "width": 640, "height": 480}],
     "images": [{"id": 5, "video_id": 1, "frame_index": 0}],
     "tracks": [{"id": 2, "video_id": 1, "category_id": 3}],
     "annotations": [{"id": 9, "image_id": 5, "track_id": 2, "category_id": 3,
                      "bbox": [x, y, width, height]}],
     "categories": [{"id": 3, "name": "cup"}]}

(``frame_id`` and ``instance_id`` in CocoVID, ``tracks`` is optional.) YouTube-VIS, LV-VIS and their
kin have an annotation for each object, with a box or null for each frame of its video::

    {"videos": [{"id": 1, "file_names": ["a/00000.jpg", ...], "length": 36, ...}],
     "annotations": [{"id": 9, "video_id": 1, "category_id": 3, "bboxes": [[x, y, w, h], null]}],
     "categories": [...]}

``frame_index`` counts from 0. ``frame_id`` does so in some data sets and counts from 1 in others: a
video whose first one is 1 is read only if the user states which it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from llava_st_ros.annotations.box_rules import Corners
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import (
    Converted,
    TrackReader,
    TrackWriter,
    width_and_height,
)
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.errors import DataError, shown
from llava_st_ros.files.json_files import read_json
from llava_st_ros.query_rules import as_float

REMEDY = "expected COCO for videos: videos, images or bboxes, annotations, categories"
MAX_BYTES = 1 << 30
MAX_LISTED = 8  # videos in an error message
MAX_INTEGER = 10**15  # of an id
FRAME_KEYS = ("frame_index", "frame_id")
TRACK_KEYS = ("track_id", "instance_id")


def read_coco_video(
    path: Path,
    camera: AnnotatedCamera,
    frames: RecordedFrames,
    video: str | None = None,
    first_frame: int | None = None,
) -> GroundTruth:
    """Read the objects of a video.

    Args:
        path: The file.
        camera: The camera of its boxes.
        frames: The frames of the camera's topic.
        video: Name or id of the video; None for the only one.
        first_frame: The number of the first frame, 0 or 1; None for what the file shows.

    Raises:
        DataError: The file cannot be read, has several videos, or a value is not valid; the error
            names its place.
    """
    content = read_json(path, DataError, REMEDY, max_bytes=MAX_BYTES)
    return _Reader(content, TrackReader(str(path), camera, frames), video, first_frame).read()


def coco_video_text(ground_truth: GroundTruth, topic: str, frames: RecordedFrames) -> Converted:
    """Write the objects of a topic as a video of TAO's form, which CocoVID's readers read too.

    Raises:
        KeyError: The topic is not annotated.
    """
    writer = TrackWriter(ground_truth, topic, frames)
    width, height = writer.camera.width, writer.camera.height
    labels = list(dict.fromkeys(track.label for track in writer.tracks))
    categories = {label: number for number, label in enumerate(labels, start=1)}
    annotations: list[dict[str, Any]] = []
    for track in writer.tracks:
        for box in track.boxes:
            if not box.keyframe:
                writer.notes.add("marks of interpolated boxes, left out")
            sides = width_and_height(box.corners)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": box.frame + 1,
                    "video_id": 1,
                    "track_id": track.number,
                    "instance_id": track.number,
                    "category_id": categories[track.label],
                    "bbox": [*box.corners[:2], *sides],
                    "area": round(sides[0] * sides[1], 3),
                    "iscrowd": 0,
                }
            )
    size = {"width": width, "height": height}
    images = [
        {"id": n + 1, "video_id": 1, "frame_index": n, "frame_id": n, **size}
        | {"file_name": f"{n:06d}.jpg"}
        for n in range(len(frames))
    ]
    sections: dict[str, list[dict[str, Any]]] = {
        "videos": [{"id": 1, "name": topic.strip("/") or "recording", **size}],
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        "tracks": [
            {"id": t.number, "video_id": 1, "category_id": categories[t.label]}
            for t in writer.tracks
        ],
        "images": images,
        "annotations": annotations,
    }
    listed = (
        f'"{name}": [' + ",".join(f"\n {json.dumps(value)}" for value in values) + "]"
        for name, values in sections.items()
    )
    return writer.converted("{" + ",\n".join(listed) + "}\n")


class _Reader:
    def __init__(
        self,
        content: Mapping[str, Any],
        reader: TrackReader,
        video: str | None,
        first_frame: int | None,
    ) -> None:
        self._content, self._reader, self._name = content, reader, reader.name
        self._first_frame = first_frame
        self._videos = self._section("videos")
        self._video_place, self._video = self._chosen_video(video)
        self._id = self._integer(self._video, "id", self._video_place)
        self._by_id("videos")
        self._labels = {
            number: self._text(value, "name", f"category {number}")
            for number, value in self._by_id("categories").items()
        }

    def read(self) -> GroundTruth:
        self._check_size(self._video, self._video_place)
        images = self._image_frames()
        tracks = self._by_id("tracks", required=False)
        others = 0
        for place, value in self._section("annotations"):
            if "bboxes" in value:
                if self._integer(value, "video_id", place) == self._id:
                    self._add_object(value, place)
                else:
                    others += 1
                continue
            image = self._integer(value, "image_id", place)
            if image not in images:
                self._fail(f"{place}: image_id {image} is none of the images")
            if images[image] is None:
                others += 1
            else:
                self._add_box(value, place, images[image] or 0, tracks)
        self._reader.notes.add("annotations of other videos, left out", count=others)
        return self._reader.ground_truth()

    def _add_box(
        self,
        value: Mapping[str, Any],
        place: str,
        frame: int,
        tracks: Mapping[int, Mapping[str, Any]],
    ) -> None:
        if self._is_ignored(value, place):
            return
        key = next((key for key in TRACK_KEYS if key in value), None)
        if key is None:
            self._fail(f"{place} has no track_id or instance_id: its object is unknown")
        track = self._integer(value, key, place)
        of_track = tracks.get(track, {})
        category = value if "category_id" in value else of_track
        self._reader.add_track(str(track), self._label(category, place), place)
        corners = self._corners(value.get("bbox"), f"{place}: bbox")
        self._reader.add_box(str(track), frame, corners, place)

    def _add_object(self, value: Mapping[str, Any], place: str) -> None:
        if self._is_ignored(value, place):
            return
        boxes = value["bboxes"]
        if not isinstance(boxes, list):
            self._fail(f"{place}: bboxes is {shown(boxes)}; expected a list")
        numbers = self._listed_frames(len(boxes), place)
        track = str(self._integer(value, "id", place))
        self._reader.add_track(track, self._label(value, place), place)
        for index, (number, box) in enumerate(zip(numbers, boxes)):
            if box is not None:
                at = f"{place}: bboxes[{index}]"
                self._reader.add_box(track, number, self._corners(box, at), at)

    def _listed_frames(self, count: int, place: str) -> range | list[int]:
        """Return the frame of each of an object's boxes: the file names may skip frames."""
        length = self._video.get("length", count)
        if length != count:
            self._fail(f"{place} has {count} bboxes; its video has the length {shown(length)}")
        if count == len(self._reader.frames) or not count:
            return range(count)
        names = self._video.get("file_names")
        listed = names if isinstance(names, list) else []
        stems = [PurePosixPath(name).stem if isinstance(name, str) else "" for name in listed]
        if len(stems) == count and all(s.isascii() and s.isdigit() and len(s) < 10 for s in stems):
            numbers = [int(stem) - (self._first_frame or 0) for stem in stems]
            is_increasing = all(a < b for a, b in itertools.pairwise(numbers))
            if is_increasing and numbers[0] >= 0 and numbers[-1] < len(self._reader.frames):
                self._reader.notes.add("objects with boxes of the frames that file_names number")
                return numbers
        raise DataError(
            f"{self._name}: {place} has {count} bboxes, the recording {len(self._reader.frames)} "
            "frames, and file_names do not number them"
        )

    def _image_frames(self) -> dict[int, int | None]:
        """Return the frame number of each image by its id, None for those of other videos."""
        found: dict[int, int | None] = {}
        places: dict[int, str] = {}
        keys = set()
        for place, value in self._section("images", required=False):
            image = self._integer(value, "id", place)
            if image in found:
                self._fail(f"{place} has the id {image} of another image")
            found[image] = None
            if self._integer(value, "video_id", place) != self._id:
                continue
            self._check_size(value, place)
            key = next((key for key in FRAME_KEYS if key in value), None)
            if key is None:
                self._fail(f"{place} has no frame_index or frame_id: its frame is unknown")
            keys.add(key)
            number = self._integer(value, key, place)
            if number in places:
                self._fail(f"{place} has the frame {number} of {places[number]}")
            places[number], found[image] = place, number
        first = self._first_of(min(places, default=0), keys)
        return {image: n if n is None else n - first for image, n in found.items()}

    def _first_of(self, lowest: int, keys: set[str]) -> int:
        if self._first_frame is None and lowest == 1 and keys == {"frame_id"}:
            raise DataError(
                f"{self._name}: the frame_id of {self._video_place} starts at 1, and data sets "
                "differ in the number of the first frame",
                "state it with --first-frame 0 or --first-frame 1",
            )
        return self._first_frame or 0

    def _is_ignored(self, value: Mapping[str, Any], place: str) -> bool:
        for key in ("iscrowd", "ignore"):
            if value.get(key) in (1, True):
                self._reader.notes.add(f"annotations with {key} 1, left out", place)
                return True
        segmentations = value.get("segmentations", value.get("segmentation"))
        self._reader.notes.add("masks, left out: boxes are kept", place, bool(segmentations))
        return False

    def _label(self, value: Mapping[str, Any], place: str) -> str:
        category = self._integer(value, "category_id", place)
        if category not in self._labels:
            self._fail(f"{place}: category_id {category} is none of the categories")
        return self._labels[category]

    def _corners(self, value: Any, place: str) -> Corners:
        numbers = [as_float(v) for v in value] if isinstance(value, list) else []
        if len(numbers) != 4 or None in numbers:
            self._fail(f"{place} is {shown(value)}; expected [x, y, width, height]")
        x, y, width, height = (number or 0.0 for number in numbers)
        if width < 0 or height < 0:
            self._fail(f"{place} is {width:g} wide and {height:g} high")
        return x, y, x + width, y + height

    def _chosen_video(self, name: str | None) -> tuple[str, Mapping[str, Any]]:
        found = [
            (place, value)
            for place, value in self._videos
            if name is None or name in (str(value.get("id")), value.get("name"))
        ]
        if len(found) == 1:
            return found[0]
        names = [str(v.get("name", v.get("id"))) for _, v in self._videos]
        listed = ", ".join(names[:MAX_LISTED]) + ", ..." * (len(names) > MAX_LISTED)
        problem = f"has {len(names)} videos" if name is None else f"has no single video {name!r}"
        raise DataError(
            f"{self._name} {problem} ({listed or 'none'})",
            "choose one with --video" if names else REMEDY,
        )

    def _check_size(self, value: Mapping[str, Any], place: str) -> None:
        self._reader.check_size(value.get("width"), value.get("height"), place)

    def _section(self, name: str, *, required: bool = True) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the entries of a list of the file with their places."""
        entries = self._content.get(name)
        if entries is None and not required:
            return []
        if not isinstance(entries, list):
            raise DataError(f"{self._name}: {name} is {shown(entries)}; expected a list", REMEDY)
        for number, value in enumerate(entries):
            if not isinstance(value, dict):
                self._fail(f"{name}[{number}] is {shown(value)}; expected an object")
        return [(f"{name}[{number}]", value) for number, value in enumerate(entries)]

    def _by_id(self, name: str, *, required: bool = True) -> dict[int, Mapping[str, Any]]:
        """Return the entries of a list of the file by their ids."""
        found: dict[int, Mapping[str, Any]] = {}
        for place, value in self._section(name, required=required):
            number = self._integer(value, "id", place)
            if number in found:
                self._fail(f"{place} has the id {number} of another entry")
            found[number] = value
        return found

    def _integer(self, value: Mapping[str, Any], key: str, place: str) -> int:
        number = value.get(key)
        if type(number) is not int or not 0 <= number <= MAX_INTEGER:
            self._fail(f"{place}: {key} is {shown(number)}; expected an integer from 0 on")
        return int(number)

    def _text(self, value: Mapping[str, Any], key: str, place: str) -> str:
        text = value.get(key)
        if not isinstance(text, str):
            self._fail(f"{place}: {key} is {shown(text)}; expected text")
        return str(text)

    def _fail(self, problem: str) -> NoReturn:
        raise DataError(f"{self._name}: {problem}")
