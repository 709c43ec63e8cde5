"""The ledger of a run: a line for each answer, from which the answer can be reproduced alone."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.atomic_files import write_text
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import DataError, LlavaStError, shown
from llava_st_ros.evaluation.frame_hashes import HashedBackend
from llava_st_ros.evaluation.replay import ReplayResult
from llava_st_ros.files.json_files import Invalid, read_values
from llava_st_ros.files.limits import RECORDS_BYTES
from llava_st_ros.files.raw import decode, read_bytes
from llava_st_ros.files.schema import build
from llava_st_ros.records import Box, Grounding, Query, Task

LEDGER_FILE = "ledger.jsonl"
REMEDY = "name the folder of an evaluation of bags, or its ledger.jsonl"


@dataclass(frozen=True)
class LedgerModel:
    """What answered.

    Attributes:
        path: Checkpoint or engine directory.
        sha256: Its checksum (``backends.model_checksum``).
        backend: Its runtime; empty for the model's own.
        device: Its device; empty for the runtime's default.
    """

    path: str
    sha256: str
    backend: str = ""
    device: str = ""


@dataclass(frozen=True)
class LedgerSource:
    """What the answers of a replay have in common.

    Attributes:
        name: Name of the bag in the run, unique.
        bag: Path of the bag.
        topic: The image topic; empty for the only one.
        model: What answered.
        config: The settings.
    """

    name: str
    bag: str
    topic: str
    model: LedgerModel
    config: GrounderConfig


@dataclass(frozen=True)
class LedgerEntry:
    """One answer.

    Attributes:
        id: Unique in the run: "BAG/TOPIC/QUERY@STAMP", with "#N" for the N-th stream (from 0) if it
            is not the first one, as stamps may be repeated after a jump of the clock.
        bag: Path of the bag, as it was given.
        topic: The image topic; empty for the only one.
        window: Stamps of the slots (ns).
        frames: Stamp (ns) and hash (``frame_hash``) of the frames of the window, each once.
        query: The query.
        model: What answered.
        config: The settings, by name.
        token_ids: The answer, without the end token.
        text: The answer in words.
        match_probability: As in ``Grounding``.
    """

    id: str
    bag: str
    topic: str
    window: tuple[int, ...]
    frames: tuple[tuple[int, str], ...]
    query: Mapping[str, Any]
    model: LedgerModel
    config: Mapping[str, Any]
    token_ids: tuple[int, ...]
    text: str
    match_probability: float | None

    def make_query(self) -> Query:
        """Return the query. Raises QueryError if its values are not those of a query."""
        values = dict(self.query)
        if values.get("box") is not None:
            values["box"] = Box(*values["box"])
        return Query(**values)

    def make_config(self) -> GrounderConfig:
        """Return the settings. Raises DataError or ConfigError if they are not valid."""
        return build(GrounderConfig, dict(self.config), f"{self.id}: config", DataError)


class LedgerRecorder:
    """Makes the ledger's entries of one replay.

    Args:
        source: What its answers have in common.
        backend: The backend that the replay runs.

    Attributes:
        entries: The entries until now, in order of the answers.
    """

    def __init__(self, source: LedgerSource, backend: HashedBackend) -> None:
        self._source, self._backend = source, backend
        self.entries: list[LedgerEntry] = []

    def record(self, result: ReplayResult) -> None:
        """Add the answers that are new since the last call.

        Call it after every frame: once a stamp is repeated, the hash of the earlier frame is gone.
        """
        start = len(self.entries)
        answers = zip(result.groundings[start:], result.grounding_streams[start:])
        for grounding, stream in answers:
            self.entries.append(self._entry(grounding, stream))

    def _entry(self, grounding: Grounding, stream: int) -> LedgerEntry:
        source, query, camera = self._source, grounding.query, grounding.camera
        parts = (source.name, source.topic.strip("/"), f"{query.id}@{grounding.window[-1]}")
        number = f"#{stream}" if stream else ""
        return LedgerEntry(
            id="/".join(filter(None, parts)) + number,
            bag=source.bag,
            topic=source.topic,
            window=grounding.window,
            frames=tuple(
                (stamp, self._backend.hash_of(camera, stamp))
                for stamp in dict.fromkeys(grounding.window)
            ),
            query=_query_values(query),
            model=source.model,
            config=asdict(source.config),
            token_ids=grounding.token_ids,
            text=grounding.answer.text,
            match_probability=grounding.match_probability,
        )


def _query_values(query: Query) -> dict[str, Any]:
    box = query.box
    return {
        "id": query.id,
        "text": query.text,
        "task": query.task.value,
        "cameras": list(query.cameras),
        "period": query.period,
        "expiry": query.expiry,
        "span": None if query.span is None else list(query.span),
        "box": None if box is None else [box.x1, box.y1, box.x2, box.y2],
    }


def ledger_line(entry: LedgerEntry) -> str:
    """Return an entry as a line of JSON, without the end of line."""
    return json.dumps(asdict(entry), allow_nan=False, separators=(",", ":"))


def write_ledger(path: Path, lines: Iterable[str]) -> None:
    """Write a ledger, atomically."""
    write_text(path, "".join(line + "\n" for line in lines))


def read_ledger_lines(path: Path) -> tuple[str, ...]:
    """Read the lines of a ledger as they are. Raises DataError."""
    data = read_bytes(path, DataError, REMEDY, max_bytes=RECORDS_BYTES)
    return tuple(decode(data, str(path), DataError, REMEDY).splitlines())


def find_entry(path: Path, entry_id: str) -> LedgerEntry:
    """Read the entry of an answer.

    Args:
        path: The run's folder, or its ledger.
        entry_id: The id of the answer.

    Raises:
        DataError: The ledger cannot be read, or has no such entry.
    """
    if path.is_dir():
        path /= LEDGER_FILE
    ids = []
    for number, values in enumerate(read_values(path, DataError, REMEDY), 1):
        where = f"{path}, line {number}"
        if isinstance(values, Invalid):
            raise DataError(f"{where} is not valid JSON: {values.reason}")
        found = values.get("id") if isinstance(values, dict) else None
        if not isinstance(found, str):
            raise DataError(f"{where} has no id", REMEDY)
        if found == entry_id:
            return _read(values, where)
        ids.append(found)
    near = difflib.get_close_matches(entry_id, ids, 3, cutoff=0.0)
    raise DataError(
        f"{path} has no answer {shown(entry_id)} among {len(ids)}",
        f"near ids: {', '.join(near)}" if near else "",
    )


def _read(values: dict[str, Any], where: str) -> LedgerEntry:
    entry = build(LedgerEntry, values, where, DataError)
    try:
        entry.make_config()
        query = entry.make_query()
    except (TypeError, LlavaStError) as error:
        raise DataError(f"{where}: {error}") from error
    assert isinstance(query.task, Task)
    if not entry.window or not entry.frames:
        raise DataError(f"{where} has no frames")
    return entry
