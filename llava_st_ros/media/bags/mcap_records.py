"""The records of an MCAP file or chunk, parsed by the mcap package.

The mcap package parses a record's fields, but its streams return fewer bytes than were asked for
without an error, and allocate what a damaged length declares. Here records are delimited by their
lengths, and a field that reaches past its record is an error.

Format: https://mcap.dev/spec
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Footer, MessageIndex, Schema, Statistics

from llava_st_ros.media.bags.compression import decompress
from llava_st_ros.media.bags.storage import (
    MAX_MESSAGE_BYTES,
    DamagedError,
    StoredMessage,
    signed_time,
)

MAGIC = b"\x89MCAP0\r\n"
PREFIX = struct.Struct("<BQ")  # opcode, length of the body
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; then the data
_CHUNK = struct.Struct("<QQQII")  # start, end, size, CRC; length of the compression's name
_LENGTH = struct.Struct("<Q")
_PARSERS: dict[int, Callable[[ReadDataStream], Any]] = {
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.MESSAGE_INDEX: MessageIndex.read,
    Opcode.STATISTICS: Statistics.read,
    Opcode.FOOTER: Footer.read,
}


class Record(NamedTuple):
    """A record's place in a file.

    Attributes:
        opcode: Its kind.
        start: Where its body starts, behind the prefix.
        end: Where its body ends, according to the prefix.
    """

    opcode: int
    start: int
    end: int

    @property
    def offset(self) -> int:
        """Where the record starts."""
        return self.start - PREFIX.size


def read_record(stream: BinaryIO, offset: int) -> Record:
    """Read a record's prefix. Raises DamagedError at the end of the file."""
    stream.seek(offset)
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise DamagedError("the file is truncated")
    opcode, length = PREFIX.unpack(prefix)
    start = offset + PREFIX.size
    return Record(opcode, start, start + length)


def read_body(stream: BinaryIO, record: Record) -> bytes:
    """Read a record's body, or what the file has of it. Raises DamagedError if it is too large."""
    length = record.end - record.start
    if length > MAX_MESSAGE_BYTES:
        raise DamagedError(f"a record declares {length} bytes")
    stream.seek(record.start)
    return stream.read(length)


def parse(opcode: int, body: bytes) -> Any:
    """Parse a record of the mcap package. Raises DamagedError."""
    try:
        return _PARSERS[opcode](ReadDataStream(_ExactBytes(body)))
    except (McapError, EOFError, ValueError, struct.error, OverflowError) as error:
        raise DamagedError(f"a {Opcode(opcode).name} record is damaged: {error}") from error


class Chunk(NamedTuple):
    """The content of a chunk.

    Attributes:
        content: Its decompressed records; those before the cut if the file ends in the chunk.
        fault: Why the content cannot be relied on, if its checksum is wrong.
    """

    content: bytes
    fault: str = ""


def read_chunk(stream: BinaryIO, record: Record, file_size: int) -> Chunk:
    """Read a chunk.

    Raises:
        DamagedError: The chunk is damaged, or contains more than MAX_MESSAGE_BYTES.
    """
    is_cut = record.end > file_size
    end = min(record.end, file_size, record.start + MAX_MESSAGE_BYTES) if is_cut else record.end
    body = read_body(stream, record._replace(end=end))
    try:
        *_, size, checksum, name_length = _CHUNK.unpack_from(body)
        data_start = _CHUNK.size + name_length + _LENGTH.size
        name = body[_CHUNK.size : _CHUNK.size + name_length].decode("ascii")
        (length,) = _LENGTH.unpack_from(body, _CHUNK.size + name_length)
    except (struct.error, UnicodeDecodeError) as error:
        if is_cut:
            return Chunk(b"")
        raise DamagedError(f"its header is damaged: {error}") from error
    data = body[data_start : data_start + length]
    content = decompress(data, name, is_cut=is_cut)
    if is_cut:
        return Chunk(content)
    if len(data) != length or len(content) != size:
        raise DamagedError(f"it has {len(content)} bytes; its header says {size}")
    if checksum and zlib.crc32(content) != checksum:
        return Chunk(content, "its checksum is wrong")
    return Chunk(content)


def split_chunk(content: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Split a chunk's content.

    Returns:
        Opcode and body of its complete records; the number of bytes behind them.
    """
    records, start = [], 0
    while start + PREFIX.size <= len(content):
        opcode, length = PREFIX.unpack_from(content, start)
        end = start + PREFIX.size + length
        if end > len(content):
            break
        records.append((opcode, content[start + PREFIX.size : end]))
        start = end
    return records, len(content) - start


def parse_message(body: bytes) -> tuple[int, StoredMessage]:
    """Parse a message record to its channel and content. Raises DamagedError."""
    if len(body) < _MESSAGE.size:
        raise DamagedError(f"a message record has {len(body)} bytes")
    channel, _, recorded, _ = _MESSAGE.unpack_from(body)
    return channel, StoredMessage(signed_time(recorded), body[_MESSAGE.size :])


def read_message_header(stream: BinaryIO, record: Record) -> tuple[int, int]:
    """Return channel and time (ns) of a message record without reading its data.

    Raises DamagedError.
    """
    start = record._replace(end=min(record.end, record.start + _MESSAGE.size))
    channel, message = parse_message(read_body(stream, start))
    return channel, message.recorded


class _ExactBytes(io.BytesIO):
    """Bytes that cannot be read past their end."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise EOFError("a field reaches past the record's end")
        return data
