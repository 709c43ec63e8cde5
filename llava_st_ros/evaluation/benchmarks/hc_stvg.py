"""HC-STVG, version 1 and 2: one JSON object with a record for each video.

A record of version 1::

    "55_x.mp4": {"bbox": [[x, y, w, h], ...], "st_frame": 268, "img_num": 600, "st_time": 8.9,
                 "ed_time": 17.5, "caption": "...", "width": 640, "height": 360}

Version 2 has the caption as ``English`` and the size as ``img_size``, [height, width]. Its test
split has no boxes: papers report the validation split.

``st_frame`` counts from 1, and ``bbox`` has a box for each frame from there on. The times and
``ed_frame`` disagree with these by up to 20 frames; as in TubeDETR's code, the boxes count. Videos
have 20 s, so ``img_num`` is 20 times the frame rate.

Source: github.com/tzhhhh123/HC-STVG, and preproc_hcstvg.py and preproc_hcstvgv2.py of
github.com/antoyang/TubeDETR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, shown
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    ReadingLog,
    VideoTruth,
    parse_records,
)
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.files.json_files import read_items
from llava_st_ros.records import Query, Task

SECONDS = 20  # of every video


def read_hc_stvg(path: Path, version: int, limit: int | None = None) -> BenchmarkFile:
    """Read an annotation file of HC-STVG.

    Args:
        path: The file.
        version: 1 or 2.
        limit: Read this many samples at most.

    Raises:
        DataError: The file cannot be read.
    """
    entries = (
        (f"{path.name}: record {number}, {shown(name)}", (name, value))
        for number, (name, value) in enumerate(read_items(path, DataError))
    )
    return parse_records(entries, partial(_parse, version=version), limit)


def _parse(
    entry: tuple[str, Any], place: str, log: ReadingLog, version: int
) -> Iterator[BenchmarkQuery]:
    name, value = entry
    record = fields.mapping(value)
    media = fields.media_path(name, "the video's name")
    if first := log.first_place(name, place):
        raise DataError(f"the record has the same name as {first}")
    caption, width, height = _VERSIONS[version](record)
    if "bbox" not in record:
        raise DataError(
            "the record has no bbox", "the labels of version 2's test split are not public"
        )
    frames = fields.integer(fields.member(record, "img_num"), "img_num", 1)
    start = fields.integer(fields.member(record, "st_frame"), "st_frame", 1) - 1
    boxes = fields.listed(record["bbox"], "bbox")
    if not boxes:
        raise DataError("bbox is empty, so the span is too")
    if start >= frames:
        raise DataError(f"st_frame is {start + 1}, but img_num is {frames}")
    size = (width, height)
    tube = {
        start + i: fields.box_xywh(box, f"bbox[{i}]", size, log, place)
        for i, box in enumerate(boxes)
    }
    end = start + len(boxes)
    if end > frames:
        log.note("boxes after the video's last frame (img_num), used as they are", place)
    _compare_ends(record, end, frames, log, place)
    yield BenchmarkQuery(
        name,
        Dataset.HC_STVG,
        place,
        (media,),
        Query("", caption, Task.STVG),
        Task.STVG.value,
        VideoTruth((start, end), tube, width, height, None, frames, frames / SECONDS),
    )


def _first(record: Mapping[str, Any]) -> tuple[str, int, int]:
    return (
        fields.text(fields.member(record, "caption"), "caption"),
        fields.side(fields.member(record, "width"), "width"),
        fields.side(fields.member(record, "height"), "height"),
    )


def _second(record: Mapping[str, Any]) -> tuple[str, int, int]:
    caption = fields.text(fields.member(record, "English"), "English")
    size = fields.listed(fields.member(record, "img_size"), "img_size", 2)
    return caption, fields.side(size[1], "img_size[1]"), fields.side(size[0], "img_size[0]")


_VERSIONS = {1: _first, 2: _second}


def _compare_ends(
    record: Mapping[str, Any], end: int, frames: int, log: ReadingLog, place: str
) -> None:
    """Note ends that disagree with the boxes by more than a frame; the boxes count."""
    ends = {}
    if record.get("ed_frame") is not None:
        ends["ed_frame"] = fields.number(record["ed_frame"], "ed_frame")  # from 1, included
    if record.get("ed_time") is not None:
        ends["ed_time"] = fields.number(record["ed_time"], "ed_time") * frames / SECONDS
    for name, annotated in ends.items():
        if abs(annotated - end) > 1:
            log.note(f"{name} disagrees with the number of boxes, which counts", place)
