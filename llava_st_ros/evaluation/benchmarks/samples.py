"""The samples of a benchmark, and what was wrong or unusual in its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llava_st_ros.errors import LlavaStError
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.records import Box, Query


@dataclass(frozen=True)
class VideoTruth:
    """Where something is in the frames of a video. Frames are numbered from 0.

    Attributes:
        span: (first, end) frame, the end excluded.
        boxes: Box by frame, as fractions of the frame; parts outside of it are kept.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        crop: The first and last frame that the model may see, both included; None for all.
        frames: The number of frames of the video; None if the file does not have it.
        fps: Frames per second; None if the file does not have it.
        caption: The description that is expected (ELC); None for other tasks.
    """

    span: tuple[int, int]
    boxes: Mapping[int, Box]
    width: int
    height: int
    crop: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None
    caption: str | None = None


@dataclass(frozen=True)
class MomentTruth:
    """When something happens in a video.

    Attributes:
        start: Seconds from the start, or a fraction of the video.
        end: Alike.
        normalized: Whether the two are fractions of the video.
    """

    start: float
    end: float
    normalized: bool


@dataclass(frozen=True)
class RegionTruth:
    """Where something is in an image.

    Attributes:
        box: Its box, as fractions of the image.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """

    box: Box
    width: int
    height: int


@dataclass(frozen=True)
class BenchmarkQuery:
    """One query of a benchmark with its ground truth.

    Attributes:
        id: Unique in the file, and the same whenever the file is read.
        dataset: The benchmark.
        place: Where it is in the file.
        media: Its video or image: paths below the media folder, in the order in which they are
            tried. A name without a suffix is that of a video of any kind.
        query: The query.
        category: What its figures are reported under: its task, or a part of it.
        truth: The ground truth.
    """

    id: str
    dataset: Dataset
    place: str
    media: tuple[str, ...]
    query: Query
    category: str
    truth: VideoTruth | MomentTruth | RegionTruth


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
        place: Where it is.
        problem: Why, in one line.
    """

    place: str
    problem: str


@dataclass
class ReadingLog:
    """What a reader has found wrong or unusual.

    Attributes:
        bad: The records that cannot be used.
        unusual: The places of each kind of unusual record, which are used all the same.
    """

    bad: list[BadRecord] = field(default_factory=list)
    unusual: dict[str, list[str]] = field(default_factory=dict)
    _seen: dict[Any, str] = field(default_factory=dict)

    def reject(self, place: str, error: LlavaStError) -> None:
        """Count a record as bad."""
        self.bad.append(BadRecord(place, str(error)))

    def note(self, kind: str, place: str) -> None:
        """Count something unusual once for each place."""
        places = self.unusual.setdefault(kind, [])
        if places[-1:] != [place]:
            places.append(place)

    def first_place(self, key: Any, place: str) -> str | None:
        """Return where a key was first met; None if it is new."""
        first = self._seen.setdefault(key, place)
        return None if first == place else first


@dataclass(frozen=True)
class BenchmarkFile:
    """What a benchmark's file contains.

    Attributes:
        samples: Its samples, in order.
        bad: The records that cannot be used.
        notes: What is unusual in the samples, one line for each kind, with the first place.
    """

    samples: tuple[BenchmarkQuery, ...]
    bad: tuple[BadRecord, ...]
    notes: tuple[str, ...]


RecordParser = Callable[[Any, str, ReadingLog], Iterable[BenchmarkQuery]]


def parse_records(
    entries: Iterable[tuple[str, Any]],
    parse: RecordParser,
    limit: int | None = None,
    log: ReadingLog | None = None,
) -> BenchmarkFile:
    """Parse the records of a file; bad ones are counted and do not stop the reading.

    Args:
        entries: The place and the value of each record.
        parse: Yields the samples of a record's value; raises LlavaStError if the record is bad.
        limit: Stop after this many samples.
        log: What was found so far.
    """
    log = log or ReadingLog()
    samples: list[BenchmarkQuery] = []
    for place, value in entries:
        if limit is not None and len(samples) >= limit:
            break
        try:
            samples += list(parse(value, place, log))
        except LlavaStError as error:
            log.reject(place, error)
    notes = tuple(_counted(kind, places) for kind, places in log.unusual.items())
    return BenchmarkFile(tuple(samples[:limit]), tuple(log.bad), notes)


def _counted(kind: str, places: list[str]) -> str:
    more = f", the first of {len(places)}" if len(places) > 1 else ""
    return f"{kind} ({places[0]}{more})"
