"""Write a simulated video as a rosbag2 recording with its ground truth in an annotation file."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.annotations.annotation_file import annotation_path, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.errors import DataError
from llava_st_ros.records import NANOSECONDS, Box, Span, Task
from llava_st_ros.simulation.phrasing import event_sentence
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent

DEFAULT_START = 1_700_000_000 * NANOSECONDS  # ns


def write_bag(
    video: SimulatedClip,
    path: Path,
    topic: str = "/camera/image_raw/compressed",
    frame_id: str = "camera",
    *,
    quality: int = 85,
    start: int = DEFAULT_START,
    queries: Sequence[SimulatedEvent] | None = None,
    tracked_objects: Sequence[int] = (),
) -> None:
    """Write a video to a new folder: metadata.yaml, an MCAP file and annotations.json.

    The images are JPEG in sensor_msgs/CompressedImage. Their header stamps and their recording
    times are both ``start`` plus the video's stamps.

    Args:
        video: The simulated video.
        path: The folder to create. It is removed again when writing fails.
        topic: The topic of the images.
        frame_id: The frame_id of the images' headers.
        quality: JPEG quality, 0 to 100.
        start: Stamp of the first frame in nanoseconds.
        queries: The events that the annotations ask for with STVG queries; by default the first
            event of each object. A query has the spans of all events that its text describes.
        tracked_objects: Indices of the objects for which the annotations have REC queries over the
            complete video.

    Raises:
        DataError: ``path`` exists or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path} already exists", "remove it or choose another folder")
    stamps = [start + round(float(s) * NANOSECONDS) for s in video.stamps]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_images(video.frames, stamps, path, topic, frame_id, quality)
        truth = _ground_truth(video, stamps, topic, queries, tracked_objects)
        write_annotations(annotation_path(path), truth)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise DataError(f"cannot write {path}: {error}") from error


def _write_images(
    frames: np.ndarray, stamps: Sequence[int], path: Path, topic: str, frame_id: str, quality: int
) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    header, time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    image = store.types["sensor_msgs/msg/CompressedImage"]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, image.__msgtype__, typestore=store)
        for frame, stamp in zip(frames, stamps):
            done, data = cv2.imencode(
                ".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
            )
            if not done:
                raise OSError("JPEG encoding failed")
            at = time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)
            message = image(header=header(stamp=at, frame_id=frame_id), format="jpeg", data=data)
            writer.write(connection, stamp, store.serialize_cdr(message, image.__msgtype__))


def _ground_truth(
    video: SimulatedClip,
    stamps: Sequence[int],
    topic: str,
    requested: Sequence[SimulatedEvent] | None,
    tracked_objects: Sequence[int],
) -> GroundTruth:
    """Return the annotations: boxes of the frames in which an object is visible."""
    height, width = video.frames.shape[1:3]
    objects = tuple(
        AnnotatedObject(_object_id(i), item.name, topic, boxes, frozenset(boxes))
        for i, item in enumerate(video.objects)
        for boxes in [_boxes(video, stamps, i)]
    )
    queries = [
        *_event_queries(video, stamps, topic, _first_events(video, requested)),
        *(_object_query(video, stamps, topic, index) for index in tracked_objects),
    ]
    camera = AnnotatedCamera(topic, int(width), int(height))
    return GroundTruth((camera,), objects, _with_unique_ids(queries))


def _first_events(
    video: SimulatedClip, requested: Sequence[SimulatedEvent] | None
) -> Sequence[SimulatedEvent]:
    if requested is not None:
        return requested
    first: dict[int, SimulatedEvent] = {}
    for event in video.events:
        first.setdefault(event.subject, event)
    return tuple(first.values())


def _event_queries(
    video: SimulatedClip, stamps: Sequence[int], topic: str, requested: Sequence[SimulatedEvent]
) -> list[AnnotatedQuery]:
    """Return a query for each sentence and object, with every event that the sentence describes."""
    spans: dict[tuple[str, int], list[Span]] = {}
    for event in sorted(video.events, key=lambda event: event.span):
        described = event_sentence(event, video.objects), event.subject
        spans.setdefault(described, []).append(Span(stamps[event.span[0]], stamps[event.span[1]]))
    queries = {}
    for event in requested:
        text = event_sentence(event, video.objects)
        name = f"{video.objects[event.subject].name} {event.kind.value}".replace(" ", "-")
        queries[text, event.subject] = AnnotatedQuery(
            name,
            text,
            Task.STVG,
            topic,
            tuple(spans[text, event.subject]),
            (_object_id(event.subject),),
        )
    return list(queries.values())


def _object_query(
    video: SimulatedClip, stamps: Sequence[int], topic: str, index: int
) -> AnnotatedQuery:
    """Return a query for the object, true in the complete video."""
    name = video.objects[index].name
    span = Span(stamps[0], stamps[-1])
    text, query_id = f"the {name}", name.replace(" ", "-")
    return AnnotatedQuery(query_id, text, Task.REC, topic, (span,), (_object_id(index),))


def _with_unique_ids(queries: Sequence[AnnotatedQuery]) -> tuple[AnnotatedQuery, ...]:
    """Number the ids that several objects of one name share."""
    seen: Counter[str] = Counter()
    unique = []
    for query in queries:
        seen[query.id] += 1
        number = seen[query.id]
        unique.append(query if number == 1 else replace(query, id=f"{query.id}-{number}"))
    return tuple(unique)


def _object_id(index: int) -> str:
    return f"object-{index}"


def _boxes(video: SimulatedClip, stamps: Sequence[int], index: int) -> dict[int, Box]:
    rows = zip(stamps, video.boxes[:, index], video.is_visible[:, index])
    return {stamp: Box(*map(float, box)) for stamp, box, visible in rows if visible}
