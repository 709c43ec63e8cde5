"""MCAP files, complete or not.

All records are listed by their lengths, without the index at the file's end: a file that was cut,
has no index, or contains messages out of order is read like any other. A chunk is not decompressed
for the list if the message indexes behind it tell what it contains. If a record is damaged, the
index tells where the next chunk starts.
"""

from __future__ import annotations

import io
import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mcap.opcode import Opcode

from llava_st_ros.errors import reason_of
from llava_st_ros.media.bags.mcap_records import (
    MAGIC,
    PREFIX,
    Record,
    parse,
    parse_message,
    read_body,
    read_chunk,
    read_message_header,
    read_record,
    split_chunk,
)
from llava_st_ros.media.bags.storage import (
    Block,
    DamagedError,
    Storage,
    StoredMessage,
    StoredTopic,
    TopicKey,
    message_type,
    signed_time,
)

_FOOTER_BYTES = PREFIX.size + 20 + len(MAGIC)
_CHUNK_INDEX = struct.Struct("<QQQ")  # first and last message's time, the chunk's offset; ...
# Records of which one starts the summary.
_SUMMARY = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS, Opcode.CHUNK_INDEX)


@dataclass
class _Chunk:
    """A chunk, and what the message indexes behind it say.

    Attributes:
        record: The chunk.
        index: By channel, the time of the first message and the number of messages; without
            channels that are not read.
        has_index: Whether there is an index of any channel.
        is_trusted: Whether the indexes are complete.
    """

    record: Record
    index: dict[int, tuple[int, int]] = field(default_factory=dict)
    has_index: bool = False
    is_trusted: bool = True


class McapFile(Storage):
    """An MCAP file.

    A block is a chunk or a message outside chunks; its location is where the record starts.

    Args:
        path: The file, for messages.
        file: The decompressed copy of ``path``, if it is compressed.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path, file: Path | None = None) -> None:
        super().__init__(path)
        self._file = file or path
        self._stream: BinaryIO | None = None
        self._cached: tuple[int, bytes] = (-1, b"")  # location and content of a chunk
        self._end = len(MAGIC)  # where the record that was listed last starts
        self._schemas: dict[int, str] = {}  # names by id
        self._expected: dict[int, int] = {}  # messages by channel, according to the statistics
        with self._file.open("rb") as stream:
            self._size = stream.seek(0, io.SEEK_END)
            self._list(stream)
        self._check_counts()
        self.blocks = [block for block in self.blocks if not self._is_skipped(block.topic_id)]

    def read(self, block: Block) -> list[StoredMessage]:
        try:
            if self._stream is None:
                self._stream = self._file.open("rb")
            record = read_record(self._stream, block.location)
            if record.opcode == Opcode.MESSAGE:
                return [parse_message(read_body(self._stream, record))[1]]
            if self._cached[0] != block.location:
                chunk = read_chunk(self._stream, record, self._size)
                if chunk.fault:
                    raise DamagedError(chunk.fault)
                self._cached = block.location, chunk.content
            messages = _messages(self._cached[1])
            return [message for channel, message in messages if channel == block.topic_id]
        except OSError as error:
            raise DamagedError(f"{self.path.name} cannot be read: {reason_of(error)}") from error
        except DamagedError as error:
            raise DamagedError(self._damage(block.location, error)) from error

    def close(self) -> None:
        self._cached = (-1, b"")
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _damage(self, location: int, problem: DamagedError | str) -> str:
        return f"{self.path.name} is damaged at byte {location}: {problem}"

    def _note(self, location: int, problem: DamagedError | str) -> None:
        self.notes.add(self._damage(location, problem))

    def _is_skipped(self, channel: int) -> bool:
        """Whether a channel's messages are not images."""
        topic = self.topics.get(channel)
        return topic is not None and not topic.has_images

    def _list(self, stream: BinaryIO) -> None:
        """List the channels and blocks of all records."""
        chunk: _Chunk | None = None
        is_closed = False
        for record in self._records(stream):
            if chunk and record.opcode == Opcode.MESSAGE_INDEX:
                self._add_index(stream, record, chunk)
                continue
            if chunk:
                self._add_chunk(stream, chunk)
                chunk = None
            if record.opcode == Opcode.CHUNK:
                chunk = _Chunk(record)
            elif record.opcode == Opcode.FOOTER:
                is_closed = True
                rest = self._size - record.end - len(MAGIC)
                if rest > 0:
                    self.notes.add(
                        f"{self.path.name} has {rest} bytes behind its end; they are not read"
                    )
                break
            else:
                self._add_record(stream, record)
        if chunk:  # the file ends behind it, so that its indexes may be missing
            chunk.is_trusted = False
            self._add_chunk(stream, chunk)
        if not is_closed:
            self.notes.add(
                f"{self.path.name} is truncated or damaged: its records end at byte {self._end} of"
                f" {self._size}, without a footer; what precedes is read"
            )

    def _records(self, stream: BinaryIO) -> Iterator[Record]:
        """Yield the records. A chunk that the file ends in is the last one."""
        known = deque(self._indexed_offsets(stream))
        offset = len(MAGIC)
        while offset + PREFIX.size <= self._size:
            self._end = offset
            record = read_record(stream, offset)
            while known and known[0] <= offset:
                known.popleft()
            limit = known[0] if known else self._size
            if record.end <= limit and _is_plausible(record):
                yield record
                offset = record.end
            elif not known:
                if record.opcode == Opcode.CHUNK:
                    yield record
                return
            elif self._is_start(stream, limit):
                self._note(offset, f"reading continues at byte {limit}")
                offset = limit
            else:
                known.popleft()

    def _indexed_offsets(self, stream: BinaryIO) -> list[int]:
        """Return where chunks and the summary start, according to the summary; [] without one."""
        offsets = []
        try:
            footer = read_record(stream, max(0, self._size - _FOOTER_BYTES))
            if footer.opcode != Opcode.FOOTER or not _is_plausible(footer):
                return []
            start = offset = parse(footer.opcode, read_body(stream, footer)).summary_start
            while 0 < offset < footer.offset:
                record = read_record(stream, offset)
                if record.opcode == Opcode.CHUNK_INDEX:
                    stream.seek(record.start)
                    *_, chunk = _CHUNK_INDEX.unpack(stream.read(_CHUNK_INDEX.size))
                    offsets.append(chunk)
                offset = record.end
        except (DamagedError, struct.error):
            return []
        return sorted({o for o in (*offsets, start) if len(MAGIC) <= o < self._size})

    def _is_start(self, stream: BinaryIO, offset: int) -> bool:
        """Whether a chunk or the summary starts at an offset of the index."""
        try:
            record = read_record(stream, offset)
        except DamagedError:
            return False
        return record.opcode in (Opcode.CHUNK, *_SUMMARY) and record.end <= self._size

    def _add_record(self, stream: BinaryIO, record: Record) -> None:
        try:
            if record.opcode == Opcode.MESSAGE:
                channel, recorded = read_message_header(stream, record)
                if not self._is_skipped(channel):
                    self.blocks.append(Block(recorded, record.offset, channel, 1))
            elif record.opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS):
                self._declare(record.opcode, read_body(stream, record))
        except DamagedError as error:
            self._note(record.offset, error)

    def _declare(self, opcode: int, body: bytes) -> None:
        """Add a schema, channel or the statistics. Raises DamagedError."""
        record = parse(opcode, body)
        if opcode == Opcode.SCHEMA:
            self._schemas.setdefault(record.id, message_type(record.name))
        elif opcode == Opcode.STATISTICS:
            self._expected = record.channel_message_counts
        elif record.id not in self.topics:
            key = TopicKey(record.topic, self._schemas.get(record.schema_id, ""))
            self.topics[record.id] = StoredTopic(key, record.message_encoding)

    def _add_index(self, stream: BinaryIO, record: Record, chunk: _Chunk) -> None:
        chunk.has_index = True
        # The stream is behind the prefix, where the channel is. Most channels have no images: their
        # indexes are not parsed.
        if self._is_skipped(int.from_bytes(stream.read(2), "little")):
            return
        try:
            index = parse(record.opcode, read_body(stream, record))
            if index.records:
                start = min(signed_time(time) for time, _ in index.records)
                chunk.index[index.channel_id] = start, len(index.records)
        except DamagedError as error:
            self._note(record.offset, error)
            chunk.is_trusted = False

    def _add_chunk(self, stream: BinaryIO, chunk: _Chunk) -> None:
        """Add a chunk's blocks, by its indexes if they are complete and name declared channels."""
        offset = chunk.record.offset
        is_known = chunk.has_index and chunk.index.keys() <= self.topics.keys()
        if not (chunk.is_trusted and is_known):
            try:
                chunk.index = self._open_chunk(stream, chunk.record)
            except DamagedError as error:
                self._note(offset, error)
        self.blocks += [
            Block(start, offset, channel, count)
            for channel, (start, count) in chunk.index.items()
            if not self._is_skipped(channel)
        ]

    def _open_chunk(self, stream: BinaryIO, record: Record) -> dict[int, tuple[int, int]]:
        """Declare a chunk's channels, damaged or not, and return its index. Raises DamagedError."""
        chunk = read_chunk(stream, record, self._size)
        records, rest = split_chunk(chunk.content)
        if rest and record.end <= self._size:
            self._note(record.offset, f"{rest} bytes of a chunk are not records")
        index: dict[int, tuple[int, int]] = {}
        for opcode, body in records:
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._declare(opcode, body)
            elif opcode == Opcode.MESSAGE and not chunk.fault:
                channel, message = parse_message(body)
                start, count = index.get(channel, (message.recorded, 0))
                index[channel] = min(start, message.recorded), count + 1
        if chunk.fault:
            raise DamagedError(chunk.fault)
        return index

    def _check_counts(self) -> None:
        """Note messages of undeclared channels, and counts that differ from the statistics."""
        found: Counter[int] = Counter()
        for block in self.blocks:
            found[block.topic_id] += block.messages
        undeclared = sum(count for channel, count in found.items() if channel not in self.topics)
        if undeclared:
            self.notes.add(
                f"{self.path.name} has {undeclared} messages of channels that it does not declare;"
                " they are not read"
            )
        for channel, expected in self._expected.items():
            if not self._is_skipped(channel) and found[channel] < expected:
                topic = self.topics.get(channel)
                name = topic.key.name if topic else f"channel {channel}"
                self.notes.add(
                    f"the statistics of {self.path.name} count {expected} messages on {name};"
                    f" it contains {found[channel]}"
                )
        self.blocks = [block for block in self.blocks if block.topic_id in self.topics]


def _is_plausible(record: Record) -> bool:
    """Whether a record's prefix can be right: no opcode is 0, and a footer has one length."""
    is_footer = record.opcode == Opcode.FOOTER
    return record.opcode != 0 and (not is_footer or record.end - record.start == 20)


def _messages(content: bytes) -> Iterator[tuple[int, StoredMessage]]:
    """Yield the channels and messages of a chunk. Raises DamagedError."""
    for opcode, body in split_chunk(content)[0]:
        if opcode == Opcode.MESSAGE:
            yield parse_message(body)
