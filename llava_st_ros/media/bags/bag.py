"""A recording: its image topics, and their messages in the order of recording."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.typesys import Stores, get_typestore

from llava_st_ros.errors import DataError, FrameError
from llava_st_ros.media.bags.compression import decompress_message
from llava_st_ros.media.bags.metadata import METADATA_FILE, Metadata
from llava_st_ros.media.bags.storage import (
    IMAGE_TYPES,
    Block,
    DamagedError,
    Notes,
    Storage,
    StoredMessage,
    TopicKey,
)
from llava_st_ros.media.bags.storage_files import Copies, find_storage_files, open_storage
from llava_st_ros.records import NANOSECONDS

_MAX_LISTED = 8  # topics in an error message
_MAX_UNSTAMPED = 100  # messages without a header stamp, after which a topic is taken to have none


@dataclass(frozen=True)
class Topic:
    """An image topic of a bag: its name, message type and number of messages."""

    name: str
    type: str
    messages: int


class MessageLocation(NamedTuple):
    """Where a bag stores a message, for ``Bag.image_at``.

    Attributes:
        file: The number of the storage file.
        block: The block that contains the message.
        position: The message's place among those of the block.
    """

    file: int
    block: Block
    position: int


@dataclass(frozen=True)
class ImageMessage:
    """One camera message.

    Attributes:
        recorded: Time at which the message was recorded (ns).
        type: The message type ("sensor_msgs/msg/Image").
        data: The message as stored: serialized (CDR), and compressed if it was recorded so.
        location: Where it is stored.
        uses_header: Whether ``stamp`` is the header's, as of all messages of a topic or of none.
    """

    recorded: int
    type: str
    data: bytes
    location: MessageLocation
    uses_header: bool = True

    @cached_property
    def message(self) -> Any:
        """The deserialized message, with the pixels as sent.

        Raises:
            FrameError: The data are damaged, or are not a message of this type.
        """
        try:
            return _types().deserialize_cdr(decompress_message(self.data), self.type)
        except Exception as error:  # the parsers raise all kinds of errors on damaged data
            raise FrameError(
                f"the message recorded at {self.recorded} is not a {self.type}: {error}"
            ) from error

    @property
    def has_stamp(self) -> bool:
        """Whether the header's stamp is a time, and not zero. Raises FrameError as ``message``."""
        stamp = self.message.header.stamp
        return stamp.nanosec < NANOSECONDS and bool(stamp.sec or stamp.nanosec)

    @property
    def stamp(self) -> int:
        """The header's stamp, or ``recorded`` if the topic's messages have none (ns).

        Raises:
            FrameError: As ``message``; or the header's stamp is zero or not a time. The node drops
                such a message too.
        """
        if not self.uses_header:
            return self.recorded
        stamp = self.message.header.stamp
        if not self.has_stamp:
            raise FrameError(
                f"the message recorded at {self.recorded} has the header stamp {stamp.sec} s,"
                f" {stamp.nanosec} ns, which is not a time"
            )
        return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)

    @property
    def frame_id(self) -> str:
        """The header's frame_id. Raises FrameError like ``message``."""
        return str(self.message.header.frame_id)


class Bag:
    """A rosbag2 recording. Its files are never modified.

    Args:
        path: The recording's folder, or a single .mcap or .db3 file, also compressed (.zstd).

    Attributes:
        image_topics: The topics with images, by name and type.
        other_topics: The types of all other topics by name.

    Raises:
        DataError: There is no bag, or nothing in it is readable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._notes = Notes()
        files, metadata, notes = find_storage_files(self.path)
        self._notes.add(*notes)
        self._copies = Copies()
        self._storages = self._open(files)
        counts: Counter[TopicKey] = Counter()
        self.other_topics: dict[str, str] = {}
        for storage in self._storages:
            counts.update(storage.counts())
            self.other_topics |= {
                topic.key.name: f"{topic.key.type or 'no type'} ({topic.encoding or 'no encoding'})"
                for topic in storage.topics.values()
                if not topic.has_images
            }
        self.image_topics = tuple(Topic(*key, count) for key, count in counts.items())
        self._stated = metadata.topic_counts if metadata else {}
        if metadata:
            self._compare(metadata, counts)

    @property
    def notes(self) -> list[str]:
        """What is missing, damaged or reinterpreted, one line each. Reading adds to it."""
        return self._notes.lines

    def image_topic(self, name: str | None = None) -> Topic:
        """Return the named image topic, or the only one that has messages.

        Raises:
            DataError: There is no such topic, or more than one; the message lists the image topics.
        """
        topics = [t for t in self.image_topics if name is None or _is_same_topic(t.name, name)]
        recorded = [topic for topic in topics if topic.messages]
        if len(recorded) == 1:
            return recorded[0]
        other = next((t for t in self.other_topics if name and _is_same_topic(t, name)), None)
        if name is None:
            problem = f"{self.path} has {len(recorded) or 'no'} image topics with messages"
        elif recorded:
            problem = f"topic {name} in {self.path} has images of {len(recorded)} types"
        elif topics:
            problem = f"topic {name} in {self.path} has no messages"
        elif other is not None:
            problem = f"topic {name} in {self.path} has type {self.other_topics[other]}"
        else:
            problem = f"{self.path} has no topic {name}"
        choices = {
            t.name for t in self.image_topics if t.messages and (name is None or t not in topics)
        }
        raise DataError(
            f"{problem}; {self._list_topics()}"
            + "".join(f"; {n}" for n in self.notes[:_MAX_LISTED]),
            "choose one with --topic" if choices else "",
        )

    def recorded_messages(self, topic: Topic) -> int:
        """Return how many messages of a topic were recorded, as far as is known.

        The number that metadata.yaml states, if it is larger than that in the storage files.
        """
        return max(topic.messages, self._stated.get(TopicKey(topic.name, topic.type), 0))

    def images(self, topic: Topic) -> Generator[ImageMessage, None, None]:
        """Yield the topic's messages in the order of recording.

        Messages that cannot be read are left out: fewer than ``topic.messages`` are yielded, and
        ``notes`` says why.
        """
        uses_header = self._uses_header(topic)
        for location, message in self._in_order(topic):
            yield ImageMessage(message.recorded, topic.type, message.data, location, uses_header)

    def image_at(self, topic: Topic, location: MessageLocation) -> ImageMessage:
        """Read one message of a topic again, by the location that ``images`` gave.

        Its block is read, and its storage file remains open until another file is read.

        Raises:
            FrameError: It cannot be read any more.
        """
        for number, storage in enumerate(self._storages):
            if number != location.file:
                storage.close()
        try:
            messages = self._storages[location.file].read(location.block)
            message = messages[location.position]
        except (DamagedError, IndexError) as error:
            raise FrameError(f"a message on {topic.name} cannot be read again: {error}") from error
        return ImageMessage(message.recorded, topic.type, message.data, location)

    def _uses_header(self, topic: Topic) -> bool:
        """Whether the topic's clock is its headers': the first messages show whether it has one."""
        unstamped = 0
        with closing(self._in_order(topic)) as messages:
            for location, stored in islice(messages, _MAX_UNSTAMPED):
                with suppress(FrameError):
                    if ImageMessage(stored.recorded, topic.type, stored.data, location).has_stamp:
                        return True
                    unstamped += 1
        if unstamped:
            self._notes.add(
                f"the first {unstamped} messages on {topic.name} have no header stamp: stamps are"
                " the times of recording"
            )
        return not unstamped

    def _open(self, files: list[Path]) -> list[Storage]:
        """Open the storage files that are readable. Raises DataError if there is none."""
        storages, problems = [], []
        for file in files:
            try:
                storages.append(open_storage(file, self._copies))
            except DamagedError as error:
                problems.append(str(error))
        if not storages:
            raise DataError("; ".join((*problems[:_MAX_LISTED], *self.notes[:_MAX_LISTED])))
        self._notes.add(*problems)
        for storage in storages:
            self._notes.add(*storage.notes.lines)
        return storages

    def _compare(self, metadata: Metadata, counts: Counter[TopicKey]) -> None:
        """Note image topics of which metadata.yaml states another type or number of messages."""
        types = {key.name: key.type for key in counts}
        for key, expected in metadata.topic_counts.items():
            if key not in counts and key.name in types:
                self._notes.add(
                    f"{METADATA_FILE} says that {key.name} has type {key.type}; it has type"
                    f" {types[key.name]}"
                )
            elif (key in counts or key.type in IMAGE_TYPES) and counts[key] != expected:
                self._notes.add(
                    f"{METADATA_FILE} counts {expected} messages on {key.name}; the storage files"
                    f" contain {counts[key]}"
                )

    def _list_topics(self) -> str:
        images = [f"{t.name} ({t.type}, {t.messages} messages)" for t in self.image_topics]
        text = f"its image topics: {_join(images)}"
        if not images and self.other_topics:
            others = [f"{name}: {description}" for name, description in self.other_topics.items()]
            text += f"; its other topics: {_join(others)}"
        return text

    def _in_order(
        self, topic: Topic
    ) -> Generator[tuple[MessageLocation, StoredMessage], None, None]:
        """Yield a topic's messages of all files by the time of recording.

        Blocks are read when their first message is due, so that only blocks that overlap in time
        are in memory together.
        """
        blocks: list[tuple[int, int, Block]] = []
        for number, storage in enumerate(self._storages):
            ids = storage.topic_ids(TopicKey(topic.name, topic.type))
            blocks += [(b.start, number, b) for b in storage.blocks if b.topic_id in ids]
        unread = Counter(number for _, number, _ in blocks)
        waiting: list[tuple[int, int, tuple[MessageLocation, StoredMessage]]] = []
        arrived = 0
        try:
            for start, number, block in sorted(blocks):
                while waiting and waiting[0][0] < start:
                    yield heapq.heappop(waiting)[-1]
                storage = self._storages[number]
                for position, message in enumerate(self._read(storage, block)):
                    located = MessageLocation(number, block, position), message
                    heapq.heappush(waiting, (message.recorded, arrived, located))
                    arrived += 1
                unread[number] -= 1
                if not unread[number]:
                    storage.close()
            while waiting:
                yield heapq.heappop(waiting)[-1]
        finally:
            for storage in self._storages:
                storage.close()

    def _read(self, storage: Storage, block: Block) -> list[StoredMessage]:
        try:
            messages = storage.read(block)
        except DamagedError as error:
            self._notes.add(f"{error}; {block.messages} messages are lost")
            return []
        if len(messages) < block.messages:
            self._notes.add(
                f"{storage.path.name} is damaged near byte {block.location}:"
                f" {block.messages - len(messages)} messages are lost"
            )
        return messages


@lru_cache(maxsize=1)
def _types() -> Any:
    return get_typestore(Stores.ROS2_JAZZY)


def _join(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + more or "none"


def _is_same_topic(a: str, b: str) -> bool:
    return a.strip("/") == b.strip("/")
