"""Small recordings of camera images, written with rosbags and mcap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.records import NANOSECONDS

STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE = "sensor_msgs/msg/Image"
TOPIC = "/cam/image_raw"
STEP = NANOSECONDS // 10
START = 1_700_000_000 * NANOSECONDS


def pixels(index: int) -> np.ndarray:
    """RGB [6, 8, 3], random and different for each index."""
    return np.random.default_rng(index).integers(0, 256, (6, 8, 3), np.uint8)


def image_message(index: int, stamp: int | None = None, *, little_endian: bool = True) -> bytes:
    """Serialize an rgb8 image; its header's stamp is START + index * STEP by default."""
    stamp = START + index * STEP if stamp is None else stamp
    time = STORE.types["builtin_interfaces/msg/Time"](stamp // NANOSECONDS, stamp % NANOSECONDS)
    header = STORE.types["std_msgs/msg/Header"](time, "cam_optical")
    data = pixels(index).ravel()
    image = STORE.types[IMAGE](header, 6, 8, "rgb8", 0, 24, data)
    return bytes(STORE.serialize_cdr(image, IMAGE, little_endian=little_endian))


def images(count: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield times of recording and messages; each is recorded when it is stamped."""
    for index in range(first, first + count):
        yield START + index * STEP, image_message(index)


def qos(*, reliable: bool) -> Qos:
    """The QoS profile that a publisher offers."""
    reliability = QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        reliability,
        QosDurability.VOLATILE,
        QosTime(0, 0),
        QosTime(0, 0),
        QosLiveliness.AUTOMATIC,
        QosTime(0, 0),
        False,
    )


def write_recording(
    path: Path,
    plugin: StoragePlugin,
    messages: Iterable[tuple[int, bytes]],
    *,
    topic: str = TOPIC,
    message_type: str = IMAGE,
    compression: CompressionMode | None = None,
    reliable: bool = True,
) -> Path:
    """Write a recording of one topic with rosbags."""
    writer = Writer(path, version=8, storage_plugin=plugin)
    if compression:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            topic,
            message_type,
            typestore=STORE,
            offered_qos_profiles=[qos(reliable=reliable)],
        )
        for recorded, data in messages:
            writer.write(connection, recorded, data)
    return path


def storage_file(folder: Path) -> Path:
    """The only storage file of a folder."""
    (file,) = (p for p in folder.iterdir() if p.suffix in (".mcap", ".db3", ".zstd"))
    return file


def edit_metadata(folder: Path, **values: Any) -> None:
    """Change values of a recording's metadata.yaml."""
    path = folder / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    metadata["rosbag2_bagfile_information"].update(values)
    path.write_text(yaml.safe_dump(metadata))


def join_recordings(folder: Path, parts: list[Path]) -> Path:
    """Write a recording whose parts are the files of other recordings, in that order."""
    folder.mkdir()
    names, total = [], 0
    for number, part in enumerate(parts):
        file = storage_file(part)
        names.append(f"{folder.name}_{number}{file.suffix}")
        (folder / names[-1]).write_bytes(file.read_bytes())
        metadata = yaml.safe_load((part / "metadata.yaml").read_text())
        total += metadata["rosbag2_bagfile_information"]["message_count"]
    (folder / "metadata.yaml").write_bytes((parts[0] / "metadata.yaml").read_bytes())
    topics = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    topics[0]["message_count"] = total
    count = total // len(parts)
    files = [{"path": name, "message_count": count} for name in names]
    edit_metadata(
        folder,
        relative_file_paths=names,
        message_count=total,
        topics_with_message_count=topics,
        files=files,
    )
    return folder


def write_mcap(
    path: Path,
    messages: Iterable[tuple[int, bytes]],
    *,
    profile: str = "ros2",
    message_type: str = IMAGE,
    **options: Any,
) -> Path:
    """Write an MCAP file of one topic with the mcap package; chunks have about 4 images."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=800, **options)
        writer.start(profile=profile)
        schema = writer.register_schema(message_type, "ros2msg", b"")
        channel = writer.register_channel(TOPIC, "cdr", schema)
        for recorded, data in messages:
            writer.add_message(channel, recorded, data, recorded)
        writer.finish()
    return path
