"""The ST-Align benchmark: stvg.json, svg.json and elc.json, each a JSON list of records.

A record::

    {"video_path": "vidor/1002/5159741010.mp4",
     "meta": {"width": 640, "height": 360, "split": [30, 329],
              "time_token": {"<s>": 60, "<e>": 119},
              "spatial_token": {"<bboxes>": {"60": [x, y, w, h], ...}, "<bbox>": [x, y, w, h]}},
     "conversations": [{"from": "human", "value": "<video>\\n..."},
                       {"from": "gpt", "value": "..."}]}

``split`` is the first and last frame that the model sees, both included, and the times are frames
of the video. A token with one box is an input of ELC. The question contains the words in one of the
templates of the training data; here they are asked in this package's own, which is one of those.
The caption of ELC is between "Ends in <e>, " and " Object bounding box: <bboxes>" in the answer.

These are not the training records (``training.st_align.format``), whose answers are templates with
lists of coordinates.

Source: inference/src/datasets.py of github.com/appletea233/LLaVA-ST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.benchmarks import fields
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    ReadingLog,
    VideoTruth,
    parse_records,
)
from llava_st_ros.evaluation.conventions.records import Dataset
from llava_st_ros.files.json_files import read_values
from llava_st_ros.records import Box, Query, Task

TASKS = {"stvg": Task.STVG, "svg": Task.SVG, "elc": Task.ELC}
TUBE, START, END = "<bboxes>", "<s>", "<e>"
_ASKED_WHERE = "the corresponding subject/object"
_WHEN = re.compile(r"At which time interval in the video can we see (.+) occurring\?", re.DOTALL)
_ENDS_IN = "Ends in <e>, "
_BOXES = re.compile(r"\s*Object bounding box:\s*<bboxes>\.?\s*$")


def read_st_align(path: Path, task: str = "", limit: int | None = None) -> BenchmarkFile:
    """Read a file of the ST-Align benchmark.

    Args:
        path: The file.
        task: A key of TASKS; by default the file's name.
        limit: Read this many samples at most.

    Raises:
        ConfigError: The task is unknown.
        DataError: The file cannot be read.
    """
    name = task or path.stem.lower()
    if name not in TASKS:
        raise ConfigError(
            f"the task of {path.name} is unknown; expected {', '.join(TASKS)}",
            "name it with --split",
        )
    entries = (
        (f"{path.name}: record {number}", (number, value))
        for number, value in enumerate(read_values(path, DataError))
    )
    return parse_records(entries, partial(_parse, task=TASKS[name]), limit)


def _parse(
    entry: tuple[int, Any], place: str, log: ReadingLog, task: Task
) -> Iterator[BenchmarkQuery]:
    number, value = entry
    record = fields.mapping(value)
    media = fields.media_path(fields.member(record, "video_path"), "video_path")
    meta = fields.mapping(fields.member(record, "meta"), "meta")
    size = (
        fields.side(fields.member(meta, "width"), "width"),
        fields.side(fields.member(meta, "height"), "height"),
    )
    first, last = _split(meta)
    times = fields.mapping(fields.member(meta, "time_token"), "time_token")
    start, end = (fields.integer(fields.member(times, t), f"time {t}") for t in (START, END))
    if not first <= start <= end <= last:
        raise DataError(f"the span {start}..{end} is not in the split {first}..{last}")
    tokens = fields.mapping(fields.member(meta, "spatial_token"), "spatial_token")
    tube = _tube(tokens, size, log, place)
    if not start <= min(tube) <= max(tube) <= end:
        log.note("boxes outside the span", place)
    question, answer = _messages(record)
    steps = last - first
    fractions = ((start - first) / steps, (end - first) / steps)
    box = _region(tokens, question, size, log, place) if task is Task.ELC else None
    query = Query(
        "",
        "" if task is Task.ELC else question_words(question),
        task,
        span=fractions if task.uses_span else None,
        box=box,
    )
    caption = expected_caption(answer, log, place) if task is Task.ELC else None
    yield BenchmarkQuery(
        f"{number}-{Path(media).stem}",
        Dataset.ST_ALIGN,
        place,
        (media,),
        query,
        task.value,
        VideoTruth((start, end + 1), tube, *size, (first, last), caption=caption),
    )


def _split(meta: Mapping[str, Any]) -> tuple[int, int]:
    split = fields.listed(fields.member(meta, "split"), "split", 2)
    first, last = (fields.integer(frame, "split") for frame in split)
    if first >= last:
        raise DataError(f"split is [{first}, {last}]; expected two frames in order")
    return first, last


def _tube(
    tokens: Mapping[str, Any], size: tuple[int, int], log: ReadingLog, place: str
) -> dict[int, Box]:
    boxes = fields.mapping(fields.member(tokens, TUBE), TUBE)
    if not boxes:
        raise DataError(f"{TUBE} is empty")
    tube: dict[int, Box] = {}
    for name, value in boxes.items():
        frame = fields.frame_id(name)
        if frame in tube:
            raise DataError(f"{TUBE} has two boxes of frame {frame}")
        tube[frame] = fields.box_xywh(value, f"{TUBE}[{frame}]", size, log, place)
    return dict(sorted(tube.items()))


def _region(
    tokens: Mapping[str, Any], question: str, size: tuple[int, int], log: ReadingLog, place: str
) -> Box:
    """Return the box that the question of ELC is about, inside the image."""
    names = [name for name in tokens if name != TUBE and name in question]
    if len(names) != 1:
        raise DataError(f"the question names {len(names)} boxes; expected one")
    return fields.box_xywh(tokens[names[0]], names[0], size, log, place).clipped()


def _messages(record: Mapping[str, Any]) -> tuple[str, str]:
    messages = fields.listed(fields.member(record, "conversations"), "conversations")
    if len(messages) < 2:
        raise DataError("conversations has no answer; expected a question and its answer")
    values = [fields.mapping(message, "a message").get("value") for message in messages[:2]]
    return fields.text(values[0], "the question"), fields.text(values[1], "the answer")


def question_words(question: str) -> str:
    """Return the words that a question of STVG or SVG is about.

    >>> question_words(
    ...     "<video>\\nAt which time interval in the video can we see a dog runs occurring? "
    ...     "Where is the corresponding subject/object located?"
    ... )
    'a dog runs'
    >>> question_words("<video>\\nFrom <s> to <e>, who runs? Where is the corresponding "
    ...     "subject/object located?")
    'who runs?'
    """
    words = question.replace("<video>", " ").strip()
    words, marker, _ = words.partition(_ASKED_WHERE)
    if marker:  # the sentence that contains it is part of the template
        words = words[: max(words.rfind(mark) for mark in ".?!") + 1]
    if match := _WHEN.fullmatch(words):
        return match[1].strip()
    before, end, after = words.partition(END)
    if end and START in before:  # "From <s> to <e>, ..."
        words = after.lstrip("} ,")
    return fields.text(words, "what the question is about")


def expected_caption(answer: str, log: ReadingLog, place: str) -> str:
    """Return the caption in the answer of ELC."""
    if _ENDS_IN not in answer:
        log.note(f'answers without "{_ENDS_IN.strip()}"', place)
    return fields.text(_BOXES.sub("", answer.replace(_ENDS_IN, "", 1)), "the caption")
