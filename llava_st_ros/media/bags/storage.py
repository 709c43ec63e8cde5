"""What the storage formats of a recording have in common: topics, and blocks of messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llava_st_ros.errors import printable_line

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
MAX_NOTES = 20
MAX_MESSAGE_BYTES = 1 << 29  # of one message, or one chunk of messages, when decompressed


class DamagedError(Exception):
    """A part of a storage file that cannot be read. The message says which part, and why."""


class Notes:
    """What is missing, damaged or reinterpreted: a line for each, up to a number of lines."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._further = 0

    def add(self, *notes: str) -> None:
        """Add notes that are new."""
        for note in map(printable_line, notes):
            if len(self._lines) < MAX_NOTES:
                self._lines[note] = None
            elif note not in self._lines:
                self._further += 1

    @property
    def lines(self) -> list[str]:
        """The notes, and how many further ones there were."""
        return [*self._lines, *([f"{self._further} further faults"] if self._further else [])]


class TopicKey(NamedTuple):
    """What a topic is selected by. Its QoS may differ between the parts of a recording."""

    name: str
    type: str


@dataclass(frozen=True)
class StoredTopic:
    """A topic as a storage file declares it.

    Attributes:
        key: Its name and message type.
        encoding: How its messages are serialized; ROS 2 uses "cdr".
    """

    key: TopicKey
    encoding: str

    @property
    def has_images(self) -> bool:
        """Whether its messages are images that can be read."""
        return self.key.type in IMAGE_TYPES and self.encoding in ("cdr", "")


class Block(NamedTuple):
    """Messages of one topic id that are read together.

    Attributes:
        start: The earliest time at which one of them was recorded (ns).
        location: Where they are stored; its meaning is the storage's own.
        topic_id: The storage's own number of their topic.
        messages: Their number.
    """

    start: int
    location: int
    topic_id: int
    messages: int


class StoredMessage(NamedTuple):
    """A serialized message, and when it was recorded (ns)."""

    recorded: int
    data: bytes


class Storage(ABC):
    """A storage file of a recording. The constructor lists its content; ``read`` opens it again.

    Attributes:
        path: The file that the user has.
        topics: The declared topics by the storage's own number.
        blocks: The blocks of all image topics.
        notes: What is wrong with the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[int, StoredTopic] = {}
        self.blocks: list[Block] = []
        self.notes = Notes()

    @abstractmethod
    def read(self, block: Block) -> list[StoredMessage]:
        """Return a block's messages. Raises DamagedError; the other blocks are not affected."""

    @abstractmethod
    def close(self) -> None:
        """Close the file, if ``read`` opened it. The storage can still be used."""

    def topic_ids(self, key: TopicKey) -> frozenset[int]:
        """Return the numbers of a topic: several if its publishers offer different QoS."""
        return frozenset(number for number, topic in self.topics.items() if topic.key == key)

    def counts(self) -> Counter[TopicKey]:
        """Return the number of messages of every image topic, 0 included."""
        counts = Counter({topic.key: 0 for topic in self.topics.values() if topic.has_images})
        for block in self.blocks:
            counts[self.topics[block.topic_id].key] += block.messages
        return counts


def signed_time(value: int) -> int:
    """Return a stored time as ROS means it: nanoseconds in 64 bits with a sign."""
    return value - (1 << 64) if value >= 1 << 63 else value


def message_type(name: str) -> str:
    """Return a message type's full name: some recorders omit "msg" in "sensor_msgs/msg/Image"."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name
