"""Conversion of annotations between this package's file and the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from llava_st_ros.annotations.annotation_file import (
    annotations_text,
    check_image_size,
    read_annotations,
)
from llava_st_ros.annotations.exchange import ANNOTATIONS
from llava_st_ros.annotations.exchange.coco_video import coco_video_text, read_coco_video
from llava_st_ros.annotations.exchange.cvat_video import cvat_video_text, read_cvat_video
from llava_st_ros.annotations.exchange.mot_text import mot_text, read_mot_text
from llava_st_ros.annotations.exchange.recorded_frames import RecordedFrames
from llava_st_ros.annotations.exchange.tracks import Converted
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.errors import ConfigError, DataError, FrameError
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.image_decoding import decode_message

_WRITERS = {"coco": coco_video_text, "mot": mot_text, "cvat": cvat_video_text}


@dataclass(frozen=True)
class AnnotatedFootage:
    """What a topic of a bag contributes to a conversion.

    Attributes:
        camera: Its topic and the size of its images.
        frames: Its frames, in the order of recording.
        notes: What is missing or unusual in the bag, one line each.
    """

    camera: AnnotatedCamera
    frames: RecordedFrames
    notes: tuple[str, ...]


@dataclass(frozen=True)
class InputFile:
    """A file to convert.

    Attributes:
        path: The file.
        format: One of ``exchange.FORMATS``.
        video: Name or id of the video of a COCO file; None for the only one.
        first_frame: Number of the first frame, 0 or 1, in a COCO or MOT file; None for 1 in MOT
            text and what a COCO file shows.
    """

    path: Path
    format: str
    video: str | None = None
    first_frame: int | None = None


def read_footage(
    bag: Path,
    topic: str | None = None,
    on_message: Callable[[int], None] = lambda total: None,
) -> AnnotatedFootage:
    """Read the stamps of a topic and the size of its images.

    Args:
        bag: The recording.
        topic: The image topic; None for the only one.
        on_message: Called after each message with the number of messages in the bag.

    Raises:
        DataError: There is no bag, no such topic (the error lists its image topics), or no image
            that can be decoded.
    """
    recording = Bag(bag)
    found = recording.image_topic(topic)
    stamps: list[int | None] = []
    size, problem = None, ""
    with closing(recording.images(found)) as messages:
        for message in messages:
            stamps.append(None)
            try:
                stamps[-1] = message.stamp
                if size is None:
                    height, width = decode_message(message.message).shape[:2]
                    size = width, height
            except FrameError as error:
                problem = str(error)
            on_message(found.messages)
    if size is None:
        raise DataError(f"no image on {found.name} in {bag} can be decoded: {problem}")
    frames, notes = RecordedFrames(stamps), list(recording.notes)
    if lost := found.messages - len(stamps):
        notes.append(f"{lost} messages on {found.name} are lost: the frames behind them move up")
    if frames.unusable:
        notes.append(
            f"{frames.unusable} frames on {found.name} have no stamp, or the stamp of another frame"
        )
    return AnnotatedFootage(AnnotatedCamera(found.name, *size), frames, tuple(notes))


def convert_annotations(source: InputFile, output: str, footage: AnnotatedFootage) -> Converted:
    """Convert a file to another format.

    Args:
        source: The file.
        output: The format to write, one of ``exchange.FORMATS``.
        footage: The topic of the bag that the annotations belong to.

    Returns:
        The text of the new file, and notes on what was changed or left out.

    Raises:
        ConfigError: Both formats are the same.
        DataError: The file cannot be read, or belongs to other footage.
    """
    if source.format == output:
        raise ConfigError(f"the file is to be converted from {output} to {output}")
    truth = _read(source, footage)
    if output == ANNOTATIONS:
        missing = "it has no queries yet: add them with 'llava-st eval annotate'"
        boxes = sum(len(item.boxes) for item in truth.objects)
        notes = (*truth.notes, missing)
        return Converted(annotations_text(truth), notes, len(truth.objects), boxes)
    converted = _WRITERS[output](truth, footage.camera.topic, footage.frames)
    return replace(converted, notes=(*truth.notes, *converted.notes))


def _read(source: InputFile, footage: AnnotatedFootage) -> GroundTruth:
    camera, frames = footage.camera, footage.frames
    if source.format == "coco":
        return read_coco_video(source.path, camera, frames, source.video, source.first_frame)
    if source.video is not None:
        raise ConfigError("--video is for COCO files")
    if source.format == "mot":
        first = 1 if source.first_frame is None else source.first_frame
        return read_mot_text(source.path, camera, frames, first)
    if source.first_frame is not None:
        raise ConfigError("--first-frame is for COCO and MOT files")
    if source.format == "cvat":
        return read_cvat_video(source.path, camera, frames)
    truth = read_annotations(source.path)
    topics = [annotated.topic for annotated in truth.cameras]
    if camera.topic not in topics:
        raise DataError(
            f"{source.path} has no annotations of {camera.topic}; its topics: "
            f"{', '.join(map(repr, topics)) or 'none'}"
        )
    check_image_size(truth, camera.topic, (camera.width, camera.height))
    return truth
