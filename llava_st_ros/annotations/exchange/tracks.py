"""Tracks of numbered frames, which the formats of other tools have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llava_st_ros.annotations.box_rules import PIXEL_DIGITS, Corners, box_in_image, corners_to_write
from llava_st_ros.annotations.change_notes import ChangeNotes
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.name_rules import checked_id, checked_words
from llava_st_ros.annotations.records import AnnotatedCamera, AnnotatedObject, GroundTruth
from llava_st_ros.errors import DataError, shown
from llava_st_ros.records import Box

NO_LABEL = "object"  # the label in a file whose format requires one
MAX_PIXELS = 1e9  # of a coordinate: sums of two are finite


@dataclass(frozen=True)
class Converted:
    """A file in another format.

    Attributes:
        text: Its content.
        notes: What was changed, and what the format does not hold, one line each.
        objects: Number of objects in it.
        boxes: Number of their boxes.
    """

    text: str
    notes: tuple[str, ...]
    objects: int
    boxes: int


@dataclass
class _Track:
    label: str
    corners: dict[int, Corners] = field(default_factory=dict)  # as in the file, by stamp
    boxes: dict[int, Box] = field(default_factory=dict)  # those of which a part is in the image
    keyframes: set[int] = field(default_factory=set)


class TrackReader:
    """Collects the boxes of a file as the ground truth of one camera.

    Args:
        name: The file, for errors.
        camera: The camera.
        frames: The frames of its topic.
    """

    def __init__(self, name: str, camera: AnnotatedCamera, frames: RecordedFrames) -> None:
        self.name, self.camera, self.frames = name, camera, frames
        self.notes = ChangeNotes()
        self._tracks: dict[str, _Track] = {}
        self._boxes = self._placed = 0

    def check_size(self, width: object, height: object, place: str) -> None:
        """Raise DataError if the file states another size of the images; None states nothing."""
        stated, size = (width, height), (self.camera.width, self.camera.height)
        if None not in stated and stated != size:
            raise DataError(
                f"{self.name}: {place} states images of {shown(width)} x {shown(height)} pixels; "
                f"those of {self.camera.topic} are {size[0]} x {size[1]}",
                "convert the file of this recording and topic",
            )

    def add_track(self, track: str, label: str, place: str) -> None:
        """Add a track; one of another label is noted and keeps its first.

        Raises:
            DataError: An annotation file cannot hold its id or label.
        """
        if track not in self._tracks:
            checked_id(track, f"{self.name}: {place}")
            checked_words("label", label, f"{self.name}: {place}")
            self._tracks[track] = _Track(label)
        known = self._tracks[track]
        if known.label != label:
            self.notes.add("boxes with another label than their track's first box", place)

    def add_box(
        self, track: str, frame: int, corners: Corners, place: str, *, keyframe: bool = True
    ) -> None:
        """Add a box of a track.

        Args:
            track: The track, added before.
            frame: Number of the frame, from 0 on in the order of recording.
            corners: x1, y1, x2, y2 in pixels.
            place: Where the box is in the file.
            keyframe: False for a box that was interpolated.

        Raises:
            DataError: The corners are not numbers of a reasonable size, or the track has another
                box in the frame.
        """
        if not all(math.isfinite(v) and abs(v) <= MAX_PIXELS for v in corners):
            raise DataError(f"{self.name}: {place}: the box is {list(corners)}; expected pixels")
        self._boxes += 1
        if not 0 <= frame < len(self.frames):
            self.notes.add(
                f"boxes in frames that the recording of {len(self.frames)} frames does not have, "
                "left out",
                place,
            )
            return
        stamp = self.frames.stamps[frame]
        if stamp is None:
            self.notes.add("boxes in frames without a stamp of their own, left out", place)
            return
        self._placed += 1
        known = self._tracks[track]
        if stamp in known.corners:
            if known.corners[stamp] != corners:
                raise DataError(
                    f"{self.name}: {place}: track {track} has another box in this frame already"
                )
            self.notes.add("boxes given twice", place)
            return
        known.corners[stamp] = corners
        size = self.camera.width, self.camera.height
        box = box_in_image(corners, size, self.notes, place)
        if box is not None:
            known.boxes[stamp] = box
            if keyframe:
                known.keyframes.add(stamp)

    def ground_truth(self) -> GroundTruth:
        """Return what was added.

        Raises:
            DataError: There are boxes, but none is in a frame of the recording.
        """
        if self._boxes and not self._placed:
            raise DataError(
                f"{self.name}: none of its {self._boxes} boxes is in a frame of the recording "
                f"({'; '.join(self.notes.lines())})",
                "name the recording and topic that were annotated",
            )
        objects = []
        for track, known in self._tracks.items():
            boxes = dict(sorted(known.boxes.items()))
            if not boxes:
                self.notes.add("tracks without a box in the recording, left out", f"track {track}")
                continue
            keyframes = frozenset(known.keyframes)
            objects.append(AnnotatedObject(track, known.label, self.camera.topic, boxes, keyframes))
        return GroundTruth((self.camera,), tuple(objects), (), self.notes.lines())


@dataclass(frozen=True)
class NumberedBox:
    """A box of a track in a frame.

    Attributes:
        frame: Number of the frame, from 0 on.
        corners: x1, y1, x2, y2 in pixels, with ``PIXEL_DIGITS`` decimals.
        keyframe: False if it was interpolated.
    """

    frame: int
    corners: Corners
    keyframe: bool


@dataclass(frozen=True)
class NumberedTrack:
    """An object as other tools hold it.

    Attributes:
        number: Its id.
        label: What it is, in words; not empty.
        boxes: Its boxes, by frame.
    """

    number: int
    label: str
    boxes: tuple[NumberedBox, ...]


class TrackWriter:
    """The objects of one camera as tracks of numbered frames, and what they do not hold.

    Args:
        ground_truth: The annotations.
        topic: The topic of the camera, one of ``ground_truth.cameras``.
        frames: The frames of the topic.

    Attributes:
        camera: The camera.
        tracks: Its objects that have a box in a frame.
        notes: Counts what is left out.
    """

    def __init__(self, ground_truth: GroundTruth, topic: str, frames: RecordedFrames) -> None:
        self.camera = ground_truth.camera(topic)
        self.notes = ChangeNotes()
        objects = [item for item in ground_truth.objects if item.topic == topic]
        self.notes.add(
            "objects of other topics, left out", count=len(ground_truth.objects) - len(objects)
        )
        self.notes.add("queries with their spans, left out", count=len(ground_truth.queries))
        numbers = _numbers([item.id for item in objects])
        tracks = []
        for number, item in zip(numbers, objects):
            if str(number) != item.id:
                self.notes.add("objects whose id is replaced by a number", f"object {item.id!r}")
            boxes = tuple(sorted(self._boxes(item, frames), key=lambda box: box.frame))
            if not boxes:
                self.notes.add("objects without a box in a frame, left out", f"object {item.id!r}")
                continue
            if not item.label:
                kind = f"objects without a label, written as {NO_LABEL!r}"
                self.notes.add(kind, f"object {item.id!r}")
            tracks.append(NumberedTrack(number, item.label or NO_LABEL, boxes))
        self.tracks = tuple(tracks)

    def converted(self, text: str) -> Converted:
        """Return the file with what was counted."""
        boxes = sum(len(track.boxes) for track in self.tracks)
        return Converted(text, self.notes.lines(), len(self.tracks), boxes)

    def _boxes(self, item: AnnotatedObject, frames: RecordedFrames) -> Iterator[NumberedBox]:
        size = self.camera.width, self.camera.height
        for stamp, box in item.boxes.items():
            frame = frames.number(stamp)
            if frame is None:
                kind = "between frames" if frames.is_within(stamp) else "outside the recording"
                self.notes.add(f"boxes at stamps {kind}, left out", f"{item.id!r}, stamp {stamp}")
                continue
            corners = corners_to_write(box, size)
            yield NumberedBox(frame, corners, stamp in item.keyframes)


def _numbers(ids: Sequence[str]) -> Sequence[int]:
    """Return the ids as numbers if all are numbers, else 1, 2, ...

    >>> _numbers(["7", "0"]), _numbers(["cup", "3"]), _numbers(["03", "3"])
    ([7, 0], [1, 2], [1, 2])
    """
    if all(name.isascii() and name.isdigit() and len(name) <= 9 for name in ids):
        numbers = [int(name) for name in ids]
        if [str(number) for number in numbers] == list(ids):
            return numbers
    return list(range(1, len(ids) + 1))


def width_and_height(corners: Corners) -> tuple[float, float]:
    """Return the width and height of a box with ``PIXEL_DIGITS`` decimals."""
    x1, y1, x2, y2 = corners
    return round(x2 - x1, PIXEL_DIGITS), round(y2 - y1, PIXEL_DIGITS)
