"""Write a simulated video as a rosbag2 recording with its ground truth in a JSON file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.errors import DataError
from llava_st_ros.records import NANOSECONDS, Task
from llava_st_ros.simulation.phrasing import event_sentence
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent

TRUTH_FILE = "truth.json"
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
    """Write a video to a new folder: metadata.yaml, an MCAP file and truth.json.

    The images are JPEG in sensor_msgs/CompressedImage. Their header stamps and their recording
    times are both ``start`` plus the video's stamps.

    Args:
        video: The simulated video.
        path: The folder to create. It is removed again when writing fails.
        topic: The topic of the images.
        frame_id: The frame_id of the images' headers.
        quality: JPEG quality, 0 to 100.
        start: Stamp of the first frame in nanoseconds.
        queries: The events that truth.json lists as STVG queries; by default the first event of
            each object.
        tracked_objects: Indices of the objects that truth.json lists as REC queries over the
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
        truth = _truth(video, stamps, topic, frame_id, _queries(video, queries), tracked_objects)
        (path / TRUTH_FILE).write_text(json.dumps(truth) + "\n", encoding="utf-8")
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


def _queries(
    video: SimulatedClip, requested: Sequence[SimulatedEvent] | None
) -> Sequence[SimulatedEvent]:
    if requested is not None:
        return requested
    first: dict[int, SimulatedEvent] = {}
    for event in video.events:
        first.setdefault(event.subject, event)
    return tuple(first.values())


def _truth(
    video: SimulatedClip,
    stamps: Sequence[int],
    topic: str,
    frame_id: str,
    queries: Sequence[SimulatedEvent],
    tracked_objects: Sequence[int],
) -> dict[str, Any]:
    """Return stamps in ns and boxes (x1, y1, x2, y2 in [0, 1]) by stamp, visible frames only."""
    return {
        "seed": video.seed,
        "topic": topic,
        "frame_id": frame_id,
        "height": int(video.frames.shape[1]),
        "width": int(video.frames.shape[2]),
        "stamps": list(stamps),
        "objects": [
            {"color": o.color, "shape": o.shape, "size": o.size, "boxes": _boxes(video, stamps, i)}
            for i, o in enumerate(video.objects)
        ],
        "events": [
            {
                "kind": e.kind.value,
                "subject": e.subject,
                "other": e.other,
                "text": event_sentence(e, video.objects),
                "span": _span(stamps, e),
            }
            for e in video.events
        ],
        "queries": [
            *(_event_query(video, stamps, event) for event in queries),
            *(_object_query(video, stamps, index) for index in tracked_objects),
        ],
    }


def _event_query(
    video: SimulatedClip, stamps: Sequence[int], event: SimulatedEvent
) -> dict[str, Any]:
    return {
        "id": f"{video.objects[event.subject].name} {event.kind.value}".replace(" ", "-"),
        "text": event_sentence(event, video.objects),
        "task": Task.STVG.value,
        "spans": [_span(stamps, event)],
        "boxes": _boxes(video, stamps, event.subject),
    }


def _object_query(video: SimulatedClip, stamps: Sequence[int], index: int) -> dict[str, Any]:
    return {
        "id": video.objects[index].name.replace(" ", "-"),
        "text": f"the {video.objects[index].name}",
        "task": Task.REC.value,
        "spans": [[stamps[0], stamps[-1]]],
        "boxes": _boxes(video, stamps, index),
    }


def _span(stamps: Sequence[int], event: SimulatedEvent) -> list[int]:
    return [stamps[event.span[0]], stamps[event.span[1]]]


def _boxes(video: SimulatedClip, stamps: Sequence[int], index: int) -> dict[str, list[float]]:
    rows = zip(stamps, video.boxes[:, index], video.is_visible[:, index])
    return {
        str(stamp): [round(float(v), 6) for v in box] for stamp, box, visible in rows if visible
    }
