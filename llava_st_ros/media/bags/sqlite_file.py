"""SQLite files, of rosbag2's plugin "sqlite3". They are opened read-only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llava_st_ros.media.bags.storage import (
    Block,
    DamagedError,
    Storage,
    StoredMessage,
    StoredTopic,
    TopicKey,
    message_type,
)

MAGIC = b"SQLite format 3\0"
JOURNALS = ("-wal", "-journal")  # with transactions that the file itself does not have yet
_HEADER_BYTES = 100  # bytes 16 and 17: the page size; 1 means 65536
_TABLES = (
    "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('topics', 'messages')"
)
# In the order of the rows, so that damage of the index on timestamps has no effect.
_ROWS = (
    "SELECT rowid, topic_id, timestamp FROM messages"
    " WHERE topic_id IS NULL OR topic_id NOT IN ({}) ORDER BY rowid"
)
# What the sqlite3 module raises on a damaged file; names that are not UTF-8 are ValueErrors.
_ERRORS = (sqlite3.Error, ValueError, OverflowError, MemoryError)
_ROW = "SELECT data FROM messages WHERE rowid = ?"


def partial_page_bytes(path: Path) -> int:
    """Return the size of a database's last page if it is cut; 0 if the pages are complete.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    size = int.from_bytes(header[16:18], "big")
    return path.stat().st_size % {0: 1, 1: 65536}.get(size, size)


class SqliteFile(Storage):
    """An SQLite file with messages.

    A block is a message; its location is the row.

    Args:
        path: The file, for messages.
        file: The copy of ``path`` to open, if it is compressed or has a journal. SQLite applies the
            journal to the copy.

    Raises:
        DamagedError: The file is not a readable database with topics and messages.
    """

    def __init__(self, path: Path, file: Path | None = None) -> None:
        super().__init__(path)
        uri = (file or path).resolve().as_uri()
        # A file that nobody writes is read without locks, so that its folder may be read-only.
        self._uri = uri if file else f"{uri}?mode=ro&immutable=1"
        self._connection: sqlite3.Connection | None = None
        try:
            self._list(self._open())
        except _ERRORS as error:
            raise DamagedError(
                f"{path} is not a readable SQLite database of rosbag2: {error}"
            ) from error
        finally:
            self.close()

    def read(self, block: Block) -> list[StoredMessage]:
        try:
            row = self._open().execute(_ROW, (block.location,)).fetchone()
        except _ERRORS as error:
            raise DamagedError(
                f"row {block.location} of {self.path.name} cannot be read: {error}"
            ) from error
        if row is None or not isinstance(row[0], bytes):
            raise DamagedError(f"row {block.location} of {self.path.name} has no data")
        return [StoredMessage(block.start, row[0])]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
            # Otherwise SQLite refuses a truncated file, and damage of a table that is not used.
            self._connection.execute("PRAGMA writable_schema = ON")
        return self._connection

    def _list(self, connection: sqlite3.Connection) -> None:
        (tables,) = connection.execute(_TABLES).fetchone()
        if tables != 2:  # a view could run any query
            raise sqlite3.DatabaseError("it has no tables topics and messages")
        query = "SELECT id, name, type, serialization_format FROM topics"
        for number, name, type_name, encoding in connection.execute(query):
            if isinstance(number, int) and isinstance(name, str) and isinstance(type_name, str):
                key = TopicKey(name, message_type(type_name))
                self.topics[number] = StoredTopic(key, str(encoding))
        skipped = ",".join(
            str(number) for number, topic in self.topics.items() if not topic.has_images
        )
        rows = _ROWS.format(skipped)
        blocks, problem = self._rows(connection, rows)
        if problem:
            # What follows the damage is listed from the end.
            behind, _ = self._rows(connection, f"{rows} DESC")
            blocks |= behind
            self.notes.add(f"{self.path.name} is damaged ({problem}); some rows are not readable")
        self._add(blocks)

    def _rows(
        self, connection: sqlite3.Connection, query: str
    ) -> tuple[dict[int, tuple[object, object]], str]:
        """Return topic and timestamp by row, and the error that the query ended with."""
        found: dict[int, tuple[object, object]] = {}
        try:
            for row, topic, timestamp in connection.execute(query):
                found[row] = topic, timestamp
        except _ERRORS as error:
            return found, str(error)
        return found, ""

    def _add(self, rows: dict[int, tuple[object, object]]) -> None:
        invalid = 0
        for row, (topic, timestamp) in sorted(rows.items()):
            if isinstance(topic, int) and topic in self.topics and isinstance(timestamp, int):
                self.blocks.append(Block(timestamp, row, topic, 1))
            else:
                invalid += 1
        if invalid:
            self.notes.add(
                f"{self.path.name} has {invalid} messages without a topic or time;"
                " they are not read"
            )
