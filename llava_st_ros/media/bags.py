"""Image topics of a rosbag2 recording (sqlite3 or MCAP), read without a ROS install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from llava_st_ros.errors import DataError
from llava_st_ros.records import NANOSECONDS

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True)
class Topic:
    """A topic of a bag: its name, type ("sensor_msgs/msg/Image") and number of messages."""

    name: str
    type: str
    messages: int


@dataclass(frozen=True)
class ImageMessage:
    """One camera message: ``stamp`` (ns) of its header, or of the recording where that is 0."""

    stamp: int
    recorded: int
    frame_id: str
    type: str
    message: Any


class Bag:
    """A bag: a folder with metadata.yaml, or a bare .mcap or .db3 file.

    Raises DataError where it is missing, truncated or of another kind, on opening or reading.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"no bag at {self.path}; expected a rosbag2 folder or file")
        with self._reader() as reader:
            counts: dict[tuple[str, str], int] = {}
            for connection in reader.connections:
                key = connection.topic, connection.msgtype
                counts[key] = counts.get(key, 0) + connection.msgcount
            self.topics = tuple(Topic(*key, count) for key, count in counts.items())
        self._types = get_typestore(Stores.ROS2_JAZZY)

    def image_topic(self, name: str | None = None) -> Topic:
        """The named topic, or the only image topic; DataError names those that there are."""
        images = [topic for topic in self.topics if topic.type in IMAGE_TYPES]
        chosen = [topic for topic in images if name is None or _same(topic.name, name)]
        if len(chosen) == 1:
            return chosen[0]
        listed = ", ".join(f"{t.name} ({t.type}, {t.messages} messages)" for t in images) or "none"
        other = [topic for topic in self.topics if name and _same(topic.name, name)]
        if other:
            found = f"topic {name} of type {other[0].type} in {self.path}"
        elif name is None:
            found = f"{len(images)} image topics in {self.path} and no choice among them"
        else:
            found = f"no topic {name} in {self.path}"
        raise DataError(
            f"{found}; expected one of its image topics: {listed}", "choose it with --topic"
        )

    def images(self, topic: Topic) -> Iterator[ImageMessage]:
        """The topic's messages in the order of recording, pixels still as they were sent."""
        with self._reader() as reader:
            chosen = [
                c for c in reader.connections if c.topic == topic.name and c.msgtype == topic.type
            ]
            for connection, recorded, data in reader.messages(chosen):
                message: Any = self._types.deserialize_cdr(data, connection.msgtype)
                header = message.header
                stamp = header.stamp.sec * NANOSECONDS + header.stamp.nanosec
                yield ImageMessage(
                    stamp or recorded, recorded, header.frame_id, topic.type, message
                )

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        try:
            with Reader(self.path) as reader:
                yield reader
        except (DataError, GeneratorExit):
            raise
        except Exception as error:  # damaged files raise whatever the parsers met: one error here
            raise DataError(
                f"{self.path}: {type(error).__name__}: {error}"
                "; expected a whole rosbag2 recording (sqlite3 or MCAP)",
                "check the file; `ros2 bag reindex` or `mcap recover` repair a cut recording",
            ) from error


def _same(topic: str, asked: str) -> bool:
    return topic.strip("/") == asked.strip("/")
