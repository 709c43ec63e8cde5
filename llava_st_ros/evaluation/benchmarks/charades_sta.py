"""Charades-STA: lines of text, or LLaVA-ST's JSON list.

A line is ``VIDEO START END##QUERY`` with times in seconds::

    3MSZA 24.3 30.4##person turn a light on.

A JSON record is ``{"image_id": "v_3MSZA.mp4", "caption": "...", "timestamp": [0.79, 0.99]}``, with
times as fractions of the video; the prefix ``v_`` and the suffix may be missing.

Source: charades_sta_test.txt of TALL, and inference/src/datasets.py of
github.com/appletea233/LLaVA-ST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    MomentTruth,
    ReadingLog,
    parse_records,
)
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.files.json_files import read_values
from llava_st_ros.files.limits import RECORDS_BYTES
from llava_st_ros.files.raw import read_text
from llava_st_ros.records import Query, Task

MAX_SECONDS = 1_000_000
# Annotated ends that are a little after the video's; larger ones are not fractions.
MAX_FRACTION = 1.1
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?")


def read_charades_sta(path: Path, limit: int | None = None) -> BenchmarkFile:
    """Read an annotation file of Charades-STA: JSON by its suffix, else text.

    Args:
        path: The file.
        limit: Read this many samples at most.

    Raises:
        DataError: The file cannot be read.
    """
    if path.suffix in (".json", ".jsonl"):
        records = enumerate(read_values(path, DataError))
        entries = ((f"{path.name}: record {number}", value) for number, value in records)
        return parse_records(entries, _parse_record, limit)
    lines = enumerate(read_text(path, DataError, max_bytes=RECORDS_BYTES).split("\n"), 1)
    written = ((f"{path.name}: line {number}", line) for number, line in lines if line.strip())
    return parse_records(written, _parse_line, limit)


def _parse_line(line: str, place: str, log: ReadingLog) -> Iterator[BenchmarkQuery]:
    head, separator, words = line.partition("##")
    parts = head.split()
    if not separator or len(parts) != 3:
        raise DataError(f"the line is {shown(line.strip())}; expected VIDEO START END##QUERY")
    video, *times = parts
    if not all(_NUMBER.fullmatch(time) for time in times):
        raise DataError(f"the times are {times[0][:40]} and {times[1][:40]}; expected seconds")
    start, end = map(float, times)
    yield _sample(video, words, MomentTruth(start, end, normalized=False), place, log)


def _parse_record(value: Any, place: str, log: ReadingLog) -> Iterator[BenchmarkQuery]:
    record = fields.mapping(value)
    times = fields.listed(fields.member(record, "timestamp"), "timestamp", 2)
    start, end = (fields.number(time, "timestamp") for time in times)
    if end > MAX_FRACTION:
        raise DataError(f"timestamp is ({start:g}, {end:g}); expected fractions of the video")
    if end > 1:
        log.note("timestamps that end after the video, used as they are", place)
    video = fields.text(fields.member(record, "image_id"), "image_id")
    words = fields.member(record, "caption")
    yield _sample(video, words, MomentTruth(start, end, normalized=True), place, log)


def _sample(
    video: str, words: Any, truth: MomentTruth, place: str, log: ReadingLog
) -> BenchmarkQuery:
    path = fields.media_path(video, "the video")
    sentence = fields.text(words, "the query")
    if truth.start < 0 or truth.end > MAX_SECONDS:
        raise DataError(f"the span {truth.start:g}..{truth.end:g} is not in the video")
    if truth.end <= truth.start:
        raise DataError(f"the span is empty: it starts at {truth.start:g}, ends at {truth.end:g}")
    if log.first_place((path, sentence, truth), place):
        log.note("repeated records, each of which counts", place)
    return BenchmarkQuery(
        f"{path.removesuffix('.mp4')}-{place.rpartition(' ')[2]}",
        Dataset.CHARADES_STA,
        place,
        (path, path.removeprefix("v_")),
        Query("", sentence, Task.TVG),
        Task.TVG.value,
        truth,
    )
