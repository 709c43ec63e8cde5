"""Reads image topics of rosbag2 recordings (sqlite3 or MCAP); ROS need not be installed."""

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
    """A topic of a bag: its name, message type and number of messages."""

    name: str
    type: str
    messages: int


@dataclass(frozen=True)
class ImageMessage:
    """One camera message.

    Attributes:
        stamp: Header stamp (ns), or ``recorded`` if the header has none.
        recorded: Time at which the message was recorded (ns).
        frame_id: The header's frame_id.
        type: The message type ("sensor_msgs/msg/Image").
        message: The deserialized message, with the pixels as sent.
    """

    stamp: int
    recorded: int
    frame_id: str
    type: str
    message: Any


class Bag:
    """A rosbag2 recording.

    Args:
        path: A folder with metadata.yaml, or a single .mcap or .db3 file.

    Raises:
        DataError: The bag is missing, truncated or corrupt (also while reading).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"no bag at {self.path}")
        with self._reader() as reader:
            counts: dict[tuple[str, str], int] = {}
            for connection in reader.connections:
                key = connection.topic, connection.msgtype
                counts[key] = counts.get(key, 0) + connection.msgcount
            self.topics = tuple(Topic(*key, count) for key, count in counts.items())
        self._types = get_typestore(Stores.ROS2_JAZZY)

    def image_topic(self, name: str | None = None) -> Topic:
        """Return the named image topic, or the only one.

        Raises:
            DataError: There is no such topic, or more than one; the message lists the image topics.
        """
        images = [topic for topic in self.topics if topic.type in IMAGE_TYPES]
        matching = [topic for topic in images if name is None or _is_same_topic(topic.name, name)]
        if len(matching) == 1:
            return matching[0]
        image_topics = (
            ", ".join(f"{t.name} ({t.type}, {t.messages} messages)" for t in images) or "none"
        )
        non_image = [topic for topic in self.topics if name and _is_same_topic(topic.name, name)]
        if non_image:
            problem = f"topic {name} in {self.path} has type {non_image[0].type}"
        elif name is None:
            problem = f"{self.path} has {len(images)} image topics"
        else:
            problem = f"{self.path} has no topic {name}"
        raise DataError(f"{problem}; its image topics: {image_topics}", "choose one with --topic")

    def images(self, topic: Topic) -> Iterator[ImageMessage]:
        """Yield the topic's messages in the order of recording."""
        with self._reader() as reader:
            connections = [
                c for c in reader.connections if c.topic == topic.name and c.msgtype == topic.type
            ]
            for connection, recorded, data in reader.messages(connections):
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
        except Exception as error:  # the parsers raise all kinds of errors on corrupt files
            raise DataError(
                f"{self.path} is not a complete rosbag2 recording: {type(error).__name__}: {error}",
                "repair a truncated recording with `ros2 bag reindex` or `mcap recover`",
            ) from error


def _is_same_topic(a: str, b: str) -> bool:
    return a.strip("/") == b.strip("/")
