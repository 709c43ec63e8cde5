"""Parsing of the model's answers, malformed ones included.

``parse`` reads the canonical form of each task, which ``format_answer`` writes, and the variants
that published models produce (other opening words, spaces, braces around the list of boxes). From
a malformed answer it returns the valid parts.
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
from llava_st_ros.text.answer_text import AnswerText, character_class, read_ids, read_text
from llava_st_ros.text.tokenizer import Tokenizer

_TIME, _HEIGHT, _WIDTH = (character_class(axis) for axis in Axis)
# Every repetition is bounded, so that parsing a repetitive answer does not take quadratic time.
_CORNERS = rf"({_WIDTH})[\s,]{{0,4}}({_HEIGHT})[\s,]{{0,4}}({_WIDTH})[\s,]{{0,4}}({_HEIGHT})"
_PAIR = re.compile(rf"({_TIME})\s{{0,4}}(?:,|-|–|and|to|\.\.)?\s{{0,4}}({_TIME})")
_BOX = re.compile(rf"(?:({_TIME})[\s,:=]{{0,6}})?[\s\[({{]{{0,6}}{_CORNERS}[\s\])]{{0,6}}")
_MARKER = re.compile(r"\.?\s{0,4}object\s{1,4}bounding\s{1,4}box(?:es)?\s{0,4}:?", re.IGNORECASE)
_ENDS_IN = re.compile(
    rf"(?:ends?\s{{1,4}}(?:in|at)\s{{0,4}})?[{{\s]{{0,4}}({_TIME})[}}\s]{{0,4}},?", re.IGNORECASE
)
_SEGMENT = re.compile(rf"[{{\s]{{0,4}}({_TIME})[\s,]{{0,4}}({_TIME})[\s}}]{{0,4}},?")
_PUNCTUATION = " ,.;:"

__all__ = ["FormattedAnswer", "format_answer", "parse"]


def parse(
    answer: str | Sequence[int],
    task: Task,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
) -> Answer:
    """Parse an answer. Never raises on the output of a model.

    Valid parts are returned, everything else is listed in ``Answer.problems``. If the span is
    missing, it is that of the boxes.

    Args:
        answer: Text, or token ids. In ids only coordinate tokens count, not words that spell one.
        task: The task of the query.
        config: The checkpoint's geometry.
        tokenizer: Decodes the words of token ids; without it they are omitted.
    """
    if isinstance(answer, str):
        text = read_text(answer, config)
    else:
        text = read_ids(answer, config, tokenizer)
    if task in NO_MATCH_TASKS and text.text.startswith(NO_MATCH_TEXT):
        fields: dict[str, Any] = {"no_match": True}
    else:
        fields = _PARSERS[task](text)
    text.report_unparsed()
    return Answer(task=task, text=text.text, problems=tuple(text.problems), **fields)


def _parse_stvg(text: AnswerText) -> dict[str, Any]:
    boxes = _boxes(text, timed=True)
    span = _span(text)
    if span is None and boxes:
        span = (boxes[0][0], boxes[-1][0])
        text.add_problem("there is no span; the span of the boxes is used")
    if not boxes:
        text.add_problem("there is no complete box")
    _compare(text, span, boxes)
    return {"span": span, "boxes": boxes}


def _parse_svg(text: AnswerText) -> dict[str, Any]:
    boxes = _boxes(text, timed=True)
    if not boxes:
        text.add_problem("there is no complete box")
        return {}
    return {"span": (boxes[0][0], boxes[-1][0]), "boxes": boxes}


def _parse_elc(text: AnswerText) -> dict[str, Any]:
    boxes = _boxes(text, timed=True)
    ends = _ENDS_IN.search(text.unparsed)
    end = text.parse_time(ends.group(1)) if ends else None
    caption = None
    if ends:
        text.consume(ends.span())
        first_box = text.next_consumed(start=ends.end())
        # The caption may contain the marker words, too: the last occurrence counts.
        markers = list(_MARKER.finditer(text.marked, ends.end(), first_box or len(text.unparsed)))
        stop = markers[-1].start() if markers else first_box
        caption = text.words_between(ends.end(), stop).strip(" ,").rstrip(". ") or None
    if end is None:
        text.add_problem("there is no end of the event")
    if caption is None:
        text.add_problem("there is no caption")
    if not boxes:
        text.add_problem("there is no complete box")
    span = None
    if end is not None:
        start = boxes[0][0] if boxes else end
        if start > end:
            text.add_problem(f"the event ends at time {end}, before its first box")
        span = (min(start, end), end)
    elif boxes:
        span = (boxes[0][0], boxes[-1][0])
        text.add_problem("there is no span; the span of the boxes is used")
    _compare(text, span, boxes)
    return {"span": span, "boxes": boxes, "caption": caption}


def _parse_tvg(text: AnswerText) -> dict[str, Any]:
    return {"span": _span(text)}


def _parse_rec(text: AnswerText) -> dict[str, Any]:
    boxes = _boxes(text, timed=False)
    if len(boxes) != 1:
        text.add_problem(f"there are {len(boxes)} complete boxes; expected one")
    return {"boxes": boxes}


def _parse_caption(text: AnswerText) -> dict[str, Any]:
    caption = text.words_between(0, None).strip() or None
    if caption is None:
        text.add_problem("there are no words")
    return {"caption": caption}


def _parse_dgc(text: AnswerText) -> dict[str, Any]:
    phrases, caption, start = [], [], 0
    for match in _BOX.finditer(text.marked):
        words = text.words_between(start, match.start()).strip()
        start = match.end()
        text.consume(match.span())
        caption.append(words.rstrip("[( "))
        box = text.parse_box(match.groups()[1:])
        phrase = words.strip("[]() ").lstrip(_PUNCTUATION)
        if box is None:
            continue
        if not phrase:
            text.add_problem("a box has no phrase")
        phrases.append((phrase, box))
    caption.append(text.words_between(start, None).strip())
    if not phrases:
        text.add_problem("there is no phrase with a box")
    joined = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(part for part in caption if part))
    return {"phrases": tuple(phrases), "caption": joined or None}


def _parse_dvc(text: AnswerText) -> dict[str, Any]:
    segments = []
    matches = list(_SEGMENT.finditer(text.marked))
    stops = [match.start() for match in matches[1:]] + [None]
    for match, stop in zip(matches, stops):
        text.consume(match.span())
        span = text.parse_span(match.group(1), match.group(2))
        words = text.words_between(match.end(), stop).strip(" ,").rstrip("{. ").strip()
        if not words:
            text.add_problem(f"segment {span} has no caption")
        if span is not None:
            segments.append((span, words))
    if not segments:
        text.add_problem("there is no complete segment")
    return {"segments": tuple(segments)}


_PARSERS: dict[Task, Callable[[AnswerText], dict[str, Any]]] = {
    Task.STVG: _parse_stvg,
    Task.SVG: _parse_svg,
    Task.ELC: _parse_elc,
    Task.TVG: _parse_tvg,
    Task.TR: _parse_caption,
    Task.REC: _parse_rec,
    Task.REG: _parse_caption,
    Task.DGC: _parse_dgc,
    Task.DVC: _parse_dvc,
}


def _span(text: AnswerText) -> tuple[int, int] | None:
    match = _PAIR.search(text.unparsed)
    if match is None:
        text.add_problem("there is no complete span")
        return None
    text.consume(match.span())
    return text.parse_span(match.group(1), match.group(2))


def _boxes(text: AnswerText, *, timed: bool) -> tuple:
    found: dict[int | None, Box] = {}
    untimed, previous = [], -1
    for match in _BOX.finditer(text.marked):
        text.consume(match.span())
        box = text.parse_box(match.groups()[1:])
        token = match.group(1)
        time = text.parse_time(token) if token else None
        if box is None or (token and time is None):
            continue
        if not timed:
            untimed.append((None, box))
        elif time is None:
            text.add_problem("a box has no time")
        elif time in found:
            text.add_problem(f"there is a second box for time {time}; ignored")
        else:
            if time < previous:
                text.add_problem(f"the box for time {time} comes after the box for time {previous}")
            found[time] = box
            previous = time
    return tuple(untimed) if not timed else tuple(sorted(found.items()))


def _compare(text: AnswerText, span: tuple[int, int] | None, boxes: tuple) -> None:
    """Add a problem if times of the span have no box or boxes are outside the span."""
    if span is None or not boxes:
        return
    times = {time for time, _ in boxes}
    missing = [t for t in range(span[0], span[1] + 1) if t not in times]
    outside = [t for t in sorted(times) if not span[0] <= t <= span[1]]
    if missing:
        text.add_problem(f"{len(missing)} times of the span have no box, first {missing[0]}")
    if outside:
        text.add_problem(f"{len(outside)} boxes are outside the span, first at time {outside[0]}")
