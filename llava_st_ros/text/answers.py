"""What the model's words mean: answers read back, whole or broken.

``format_answer`` writes the canonical form of each task; ``parse`` reads that and the variants
that published models produce (other openers, spaces, braces around the box list), and of a broken
answer whatever is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.answer_format import (
    NO_MATCH_TASKS,
    NO_MATCH_TEXT,
    FormattedAnswer,
    format_answer,
)
from llava_st_ros.text.answer_text import Reading, character_class, read_ids, read_text
from llava_st_ros.text.tokenizer import Tokenizer

_TIME, _HEIGHT, _WIDTH = (character_class(axis) for axis in Axis)
# Every repetition is bounded: a model that repeats itself must not make reading quadratic.
_CORNERS = rf"({_WIDTH})[\s,]{{0,4}}({_HEIGHT})[\s,]{{0,4}}({_WIDTH})[\s,]{{0,4}}({_HEIGHT})"
_PAIR = re.compile(rf"({_TIME})\s{{0,4}}(?:,|-|–|and|to|\.\.)?\s{{0,4}}({_TIME})")
_BOX = re.compile(rf"(?:({_TIME})[\s,:=]{{0,6}})?[\s\[({{]{{0,6}}{_CORNERS}[\s\])]{{0,6}}")
_MARKER = re.compile(r"\.?\s{0,4}object\s{1,4}bounding\s{1,4}box(?:es)?\s{0,4}:?", re.IGNORECASE)
_ENDS_IN = re.compile(
    rf"(?:ends?\s{{1,4}}(?:in|at)\s{{0,4}})?[{{\s]{{0,4}}({_TIME})[}}\s]{{0,4}},?", re.IGNORECASE
)
_SEGMENT = re.compile(rf"[{{\s]{{0,4}}({_TIME})[\s,]{{0,4}}({_TIME})[\s}}]{{0,4}},?")
_INTERPUNCTION = " ,.;:"


__all__ = ["FormattedAnswer", "format_answer", "parse"]


def parse(
    answer: str | Sequence[int],
    task: Task,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
) -> Answer:
    """Read an answer of ``task`` from its text or its token ids (with the tokenizer).

    Never raises on what a model may say: what is whole is returned, what is not is listed in
    ``Answer.problems``. From ids, only true coordinate tokens count, not words that spell one.
    Of a span that is missing beside whole boxes, the boxes' first and last time are taken.
    """
    if isinstance(answer, str):
        reading = read_text(answer, config)
    else:
        reading = read_ids(answer, config, tokenizer)
    if task in NO_MATCH_TASKS and reading.text.startswith(NO_MATCH_TEXT):
        fields: dict[str, Any] = {"no_match": True}
    else:
        fields = _READERS[task](reading)
    reading.report_rest()
    return Answer(task=task, text=reading.text, problems=tuple(reading.problems), **fields)


def _read_stvg(reading: Reading) -> dict[str, Any]:
    boxes = _boxes(reading, timed=True)
    span = _span(reading)
    if span is None and boxes:
        span = (boxes[0][0], boxes[-1][0])
        reading.problem("the span is taken from the boxes")
    if not boxes:
        reading.problem("no whole box")
    _compare(reading, span, boxes)
    return {"span": span, "boxes": boxes}


def _read_svg(reading: Reading) -> dict[str, Any]:
    boxes = _boxes(reading, timed=True)
    if not boxes:
        reading.problem("no whole box")
        return {}
    return {"span": (boxes[0][0], boxes[-1][0]), "boxes": boxes}


def _read_elc(reading: Reading) -> dict[str, Any]:
    boxes = _boxes(reading, timed=True)
    ends = _ENDS_IN.search(reading.rest)
    end = reading.time(ends.group(1)) if ends else None
    caption = None
    if ends:
        reading.take(ends.span())
        first_box = reading.first_taken(after=ends.end())
        # A caption may speak of object bounding boxes itself: the last such words count.
        markers = list(_MARKER.finditer(reading.marked, ends.end(), first_box or len(reading.rest)))
        stop = markers[-1].start() if markers else first_box
        caption = reading.words(ends.end(), stop).strip(" ,").rstrip(". ") or None
    if end is None:
        reading.problem("no end of the event")
    if caption is None:
        reading.problem("no caption")
    if not boxes:
        reading.problem("no whole box")
    span = None
    if end is not None:
        start = boxes[0][0] if boxes else end
        if start > end:
            reading.problem(f"the event ends at time {end}, before its first box")
        span = (min(start, end), end)
    elif boxes:
        span = (boxes[0][0], boxes[-1][0])
        reading.problem("the span is taken from the boxes")
    _compare(reading, span, boxes)
    return {"span": span, "boxes": boxes, "caption": caption}


def _read_tvg(reading: Reading) -> dict[str, Any]:
    return {"span": _span(reading)}


def _read_rec(reading: Reading) -> dict[str, Any]:
    boxes = _boxes(reading, timed=False)
    if len(boxes) != 1:
        reading.problem(f"{len(boxes)} whole boxes where one is asked for")
    return {"boxes": boxes}


def _read_words(reading: Reading) -> dict[str, Any]:
    caption = reading.words(0, None).strip() or None
    if caption is None:
        reading.problem("no words")
    return {"caption": caption}


def _read_dgc(reading: Reading) -> dict[str, Any]:
    phrases, caption, start = [], [], 0
    for match in _BOX.finditer(reading.marked):
        words = reading.words(start, match.start()).strip()
        start = match.end()
        reading.take(match.span())
        caption.append(words.rstrip("[( "))
        box = reading.box(match.groups()[1:])
        phrase = words.strip("[]() ").lstrip(_INTERPUNCTION)
        if box is None:
            continue
        if not phrase:
            reading.problem("a box without a phrase")
        phrases.append((phrase, box))
    caption.append(reading.words(start, None).strip())
    if not phrases:
        reading.problem("no phrase with a box")
    whole = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(part for part in caption if part))
    return {"phrases": tuple(phrases), "caption": whole or None}


def _read_dvc(reading: Reading) -> dict[str, Any]:
    segments = []
    matches = list(_SEGMENT.finditer(reading.marked))
    stops = [match.start() for match in matches[1:]] + [None]
    for match, stop in zip(matches, stops):
        reading.take(match.span())
        span = reading.ordered_span(match.group(1), match.group(2))
        words = reading.words(match.end(), stop).strip(" ,").rstrip("{. ").strip()
        if not words:
            reading.problem(f"no caption for the segment {span}")
        if span is not None:
            segments.append((span, words))
    if not segments:
        reading.problem("no whole segment")
    return {"segments": tuple(segments)}


_READERS: dict[Task, Callable[[Reading], dict[str, Any]]] = {
    Task.STVG: _read_stvg,
    Task.SVG: _read_svg,
    Task.ELC: _read_elc,
    Task.TVG: _read_tvg,
    Task.TR: _read_words,
    Task.REC: _read_rec,
    Task.REG: _read_words,
    Task.DGC: _read_dgc,
    Task.DVC: _read_dvc,
}


def _span(reading: Reading) -> tuple[int, int] | None:
    match = _PAIR.search(reading.rest)
    if match is None:
        reading.problem("no whole span")
        return None
    reading.take(match.span())
    return reading.ordered_span(match.group(1), match.group(2))


def _boxes(reading: Reading, *, timed: bool) -> tuple:
    found: dict[int | None, Box] = {}
    untimed, previous = [], -1
    for match in _BOX.finditer(reading.marked):
        reading.take(match.span())
        box = reading.box(match.groups()[1:])
        token = match.group(1)
        time = reading.time(token) if token else None
        if box is None or (token and time is None):
            continue
        if not timed:
            untimed.append((None, box))
        elif time is None:
            reading.problem("a box without a time")
        elif time in found:
            reading.problem(f"a second box for time {time}, left out")
        else:
            if time < previous:
                reading.problem(f"the box for time {time} comes after that for {previous}")
            found[time] = box
            previous = time
    return tuple(untimed) if not timed else tuple(sorted(found.items()))


def _compare(reading: Reading, span: tuple[int, int] | None, boxes: tuple) -> None:
    """Say which times of the span have no box, and which boxes lie outside of it."""
    if span is None or not boxes:
        return
    times = {time for time, _ in boxes}
    missing = [t for t in range(span[0], span[1] + 1) if t not in times]
    outside = [t for t in sorted(times) if not span[0] <= t <= span[1]]
    if missing:
        reading.problem(f"no box for {len(missing)} times of the span, first {missing[0]}")
    if outside:
        reading.problem(f"{len(outside)} boxes outside the span, first at time {outside[0]}")
