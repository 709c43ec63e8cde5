"""VidSTG: a JSON list of records, each with declarative and interrogative sentences.

A record::

    {"vid": "5159741010", "frame_count": 219, "fps": 29.97, "width": 1920, "height": 1080,
     "used_segment": {"begin_fid": 0, "end_fid": 210},
     "temporal_gt": {"begin_fid": 13, "end_fid": 45},
     "captions": [{"description": "there is ...", "type": "person", "target_id": 1}],
     "questions": [{"description": "what is ...?", "type": "object", "target_id": 0}]}

``used_segment`` crops the video and ``temporal_gt`` is the span; as in TubeDETR's code, both ends
are excluded. In a sixth of the published records the span ends one frame after the segment, with
the video. The boxes are in VidOR's files: ``target_id`` is a ``tid`` there.

Source: github.com/Guaranteer/VidSTG-Dataset, and preproc_vidstg.py of github.com/antoyang/TubeDETR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    ReadingLog,
    VideoTruth,
    parse_records,
)
from llava_st_ros.evaluation.benchmarks.vidor import VidorFolder
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.files.json_files import read_values
from llava_st_ros.records import Box, Query, Task

SENTENCES = {"declarative": "captions", "interrogative": "questions"}  # kind -> field


def read_vidstg(
    path: Path,
    vidor: Path,
    kinds: tuple[str, ...] = tuple(SENTENCES),
    limit: int | None = None,
) -> BenchmarkFile:
    """Read an annotation file of VidSTG.

    Args:
        path: The file.
        vidor: The folder of VidOR's annotation files.
        kinds: The kinds of sentences, keys of SENTENCES.
        limit: Read this many samples at most.

    Raises:
        DataError: The file cannot be read, or there is no folder of VidOR.
    """
    entries = (
        (f"{path.name}: record {number}", (number, value))
        for number, value in enumerate(read_values(path, DataError))
    )
    return parse_records(entries, partial(_parse, vidor=VidorFolder(vidor), kinds=kinds), limit)


def _parse(
    entry: tuple[int, Any], place: str, log: ReadingLog, vidor: VidorFolder, kinds: tuple[str, ...]
) -> Iterator[BenchmarkQuery]:
    number, value = entry
    record = fields.mapping(value)
    sentences = [
        (kind, i, sentence)
        for kind in kinds
        for i, sentence in enumerate(
            fields.listed(fields.member(record, SENTENCES[kind]), SENTENCES[kind])
        )
    ]
    vid = fields.media_path(fields.member(record, "vid"), "vid")
    frames = fields.integer(fields.member(record, "frame_count"), "frame_count", 1)
    fps = fields.number(fields.member(record, "fps"), "fps")
    if not 0 < fps <= 1000:
        raise DataError(f"fps is {fps}; expected a value in (0, 1000]")
    crop = _span(record, "used_segment", frames)
    span = _span(record, "temporal_gt", frames)
    if span[0] < crop[0] or span[1] > crop[1] + 1:
        raise DataError(
            f"temporal_gt {span[0]}..{span[1]} is not in used_segment {crop[0]}..{crop[1]}"
        )
    if span[1] > crop[1]:
        log.note("temporal_gt ends one frame after used_segment", place)
    video = vidor.video(vid)
    width, height = (fields.side(fields.member(record, name), name) for name in ("width", "height"))
    if (width, height, frames) != (video.width, video.height, video.frames):
        log.note("videos of another size or length than in VidOR, whose size counts", place)
    tubes: dict[int, dict[int, Box]] = {}  # a caption and a question may share their object
    for kind, i, sentence in sentences:
        where = f"{place}, {SENTENCES[kind]}[{i}]"
        try:
            item = fields.mapping(sentence, "the sentence")
            words = fields.text(item.get("description"), "description")
            target = fields.integer(item.get("target_id"), "target_id")
            if target not in tubes:
                tubes[target] = video.tube(target, span, log, where)
            query = Query("", words, Task.STVG)
        except LlavaStError as error:
            log.reject(where, error)
            continue
        if len(tubes[target]) < span[1] - span[0]:
            log.note("frames of temporal_gt without a box, which count as IoU 0", where)
        yield BenchmarkQuery(
            f"{vid}-{number}-{kind}-{i}",
            Dataset.VIDSTG,
            where,
            (video.path, vid),
            query,
            f"{Task.STVG.value} {kind}",
            VideoTruth(
                span, tubes[target], video.width, video.height, (crop[0], crop[1] - 1), frames, fps
            ),
        )


def _span(record: Mapping[str, Any], name: str, frames: int) -> tuple[int, int]:
    value = fields.mapping(fields.member(record, name), name)
    begin = fields.integer(value.get("begin_fid"), f"{name}.begin_fid")
    end = fields.integer(value.get("end_fid"), f"{name}.end_fid")
    if end <= begin:
        raise DataError(f"{name} is empty: it begins at {begin} and ends before {end}")
    if end > frames:
        raise DataError(f"{name} ends at {end}, but the video has {frames} frames")
    return begin, end
