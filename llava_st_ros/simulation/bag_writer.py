"""A simulated video as a rosbag2 recording with the truth beside it."""

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
from llava_st_ros.simulation.simulator import SimulatedClip, SimulatedEvent
from llava_st_ros.simulation.wording import sentence

TRUTH = "truth.json"
START = 1_700_000_000 * NANOSECONDS  # stamp of the first frame unless told otherwise


def write_bag(
    video: SimulatedClip,
    path: Path,
    topic: str = "/camera/image_raw/compressed",
    frame_id: str = "camera",
    *,
    quality: int = 85,
    start: int = START,
    queries: Sequence[SimulatedEvent] | None = None,
    followed: Sequence[int] = (),
) -> None:
    """Write ``video`` to the new folder ``path``: metadata.yaml, an MCAP file and truth.json.

    The images are sensor_msgs/CompressedImage, JPEG of ``quality``, stamped ``start`` (ns) + the
    video's stamps and recorded at these times. ``queries`` are the events that truth.json asks
    about as STVG, by default the first of each object; ``followed`` are objects that it asks about
    as REC, picture by picture, all the time. Raises DataError where ``path`` exists or cannot be
    written; then nothing is left behind.
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path} exists; expected a new folder", "remove it or choose another")
    stamps = [start + round(float(s) * NANOSECONDS) for s in video.stamps]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_images(video.frames, stamps, path, topic, frame_id, quality)
        truth = _truth(video, stamps, topic, frame_id, _queries(video, queries), followed)
        (path / TRUTH).write_text(json.dumps(truth) + "\n", encoding="utf-8")
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise DataError(f"{path}: {error}; expected a folder to write to") from error


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
    video: SimulatedClip, chosen: Sequence[SimulatedEvent] | None
) -> Sequence[SimulatedEvent]:
    if chosen is not None:
        return chosen
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
    followed: Sequence[int],
) -> dict[str, Any]:
    """Stamps in ns, boxes x1, y1, x2, y2 in [0, 1] by stamp; a frame without a box is left out."""

    def span(event: SimulatedEvent) -> list[int]:
        return [stamps[event.span[0]], stamps[event.span[1]]]

    def boxes(index: int) -> dict[str, list[float]]:
        rows = zip(stamps, video.boxes[:, index], video.visible[:, index])
        return {str(s): [round(float(v), 6) for v in box] for s, box, seen in rows if seen}

    return {
        "seed": video.seed,
        "topic": topic,
        "frame_id": frame_id,
        "height": int(video.frames.shape[1]),
        "width": int(video.frames.shape[2]),
        "stamps": list(stamps),
        "objects": [
            {"color": o.color, "shape": o.shape, "size": o.size, "boxes": boxes(i)}
            for i, o in enumerate(video.objects)
        ],
        "events": [
            {
                "kind": e.kind.value,
                "subject": e.subject,
                "other": e.other,
                "text": sentence(e, video.objects),
                "span": span(e),
            }
            for e in video.events
        ],
        "queries": [
            {
                "id": f"{video.objects[e.subject].name} {e.kind.value}".replace(" ", "-"),
                "text": sentence(e, video.objects),
                "task": Task.STVG.value,
                "spans": [span(e)],
                "boxes": boxes(e.subject),
            }
            for e in queries
        ]
        + [
            {
                "id": video.objects[index].name.replace(" ", "-"),
                "text": f"the {video.objects[index].name}",
                "task": Task.REC.value,
                "spans": [[stamps[0], stamps[-1]]],
                "boxes": boxes(index),
            }
            for index in followed
        ],
    }
