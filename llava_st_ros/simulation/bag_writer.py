"""Write a simulated video as a rosbag2 recording with its ground truth in an annotation file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

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
from llava_st_ros.records import NANOSECONDS, Box, Span
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.video_queries import VideoQuery, event_queries

DEFAULT_START = 1_700_000_000 * NANOSECONDS  # ns


def write_bag(
    video: SimulatedClip,
    path: Path,
    topic: str = "/camera/image_raw/compressed",
    frame_id: str = "camera",
    *,
    quality: int = 85,
    start: int = DEFAULT_START,
    queries: Sequence[VideoQuery] | None = None,
) -> None:
    """Write a video to a new folder: metadata.yaml, an MCAP file and annotations.json.

    The images are JPEG in sensor_msgs/CompressedImage. Their header stamps and their recording
    times are both ``start`` plus the video's stamps.

    Args:
        video: The simulated video.
        path: The folder to create. It appears complete or not at all.
        topic: The topic of the images.
        frame_id: The frame_id of the images' headers.
        quality: JPEG quality, 0 to 100.
        start: Stamp of the first frame in nanoseconds.
        queries: The queries of the annotations; by default those of ``event_queries``.

    Raises:
        DataError: ``path`` exists or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path} already exists", "remove it or choose another folder")
    stamps = [start + round(float(s) * NANOSECONDS) for s in video.stamps]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=path.parent) as unfinished:
            part = Path(unfinished) / path.name  # the name of the MCAP file follows the folder's
            _write_images(video.frames, stamps, part, topic, frame_id, quality)
            truth = _ground_truth(video, stamps, topic, queries)
            write_annotations(annotation_path(part), truth)
            part.rename(path)
    except OSError as error:
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
    queries: Sequence[VideoQuery] | None,
) -> GroundTruth:
    """Return the annotations: boxes of the frames in which an object is visible."""
    height, width = video.frames.shape[1:3]
    objects = tuple(
        AnnotatedObject(_object_id(i), item.name, topic, boxes, frozenset(boxes))
        for i, item in enumerate(video.objects)
        for boxes in [_boxes(video, stamps, i)]
    )
    chosen = event_queries(video) if queries is None else queries
    annotated = [_annotated(query, stamps, topic) for query in chosen]
    camera = AnnotatedCamera(topic, int(width), int(height))
    return GroundTruth((camera,), objects, _with_unique_ids(annotated))


def _annotated(query: VideoQuery, stamps: Sequence[int], topic: str) -> AnnotatedQuery:
    spans = tuple(Span(stamps[first], stamps[last]) for first, last in query.spans)
    objects = () if query.subject is None else (_object_id(query.subject),)
    name = query.name.replace(" ", "-")
    return AnnotatedQuery(name, query.text, query.task, topic, spans, objects)


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
