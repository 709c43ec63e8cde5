"""The canonical text of answers: the training targets, and what the grammar allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from llava_st_ros.coordinates import CORNERS, Axis, CoordinateVocabulary
from llava_st_ros.errors import QueryError
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.text.tasks import plain_words

STVG_OPENER, TVG_OPENER = "During the span of {", "During the period {"
ELC_OPENER, REC_OPENER = "Ends in ", "It appears at ["
TUBE_OPENER = "Object bounding box: "
# The answer of the tasks that search for something that is not there. The published models are not
# trained on it.
NO_MATCH_TEXT = "Nothing matches."
NO_MATCH_TASKS = (Task.STVG, Task.SVG, Task.TVG, Task.REC)

# All fixed words between coordinate tokens; part of the training text of a tokenizer.
FIXED_WORDS = (
    STVG_OPENER,
    TVG_OPENER,
    ELC_OPENER,
    REC_OPENER,
    TUBE_OPENER,
    NO_MATCH_TEXT,
    "}. " + TUBE_OPENER,
    ". " + TUBE_OPENER,
    ": [",
    "], ",
    "]",
    "}",
    "{",
    "},",
    ". {",
    " [",
)
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class FormattedAnswer:
    """The canonical text of an answer.

    Attributes:
        text: The text with its coordinate tokens.
        values: The exact values in [0, 1] of the coordinate tokens in order; the tokens themselves
            are rounded to rows of the tables.
    """

    text: str
    values: tuple[float, ...]


class _Writer:
    """Collects text and the exact values of its coordinate tokens."""

    def __init__(self, coordinates: CoordinateVocabulary) -> None:
        self._coordinates = coordinates
        self._text: list[str] = []
        self._values: list[float] = []

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def add_time(self, token: int) -> None:
        rows = self._coordinates.rows(Axis.TIME)
        if not 0 <= token < rows:
            raise QueryError(f"time token {token} is not in the table; expected 0..{rows - 1}")
        self._coordinate(Axis.TIME, token, self._coordinates.value(Axis.TIME, token))

    def add_span(self, span: tuple[int, int]) -> None:
        self.add_time(span[0])
        self.add_time(span[1])

    def add_box(self, box: Box) -> None:
        for axis, value in zip(CORNERS, (box.x1, box.y1, box.x2, box.y2)):
            value = min(1.0, max(0.0, float(value)))
            self._coordinate(axis, self._coordinates.nearest_row(axis, value), value)

    def add_tube(self, boxes: Sequence[tuple[int | None, Box]]) -> None:
        self.add_text(TUBE_OPENER)
        for number, (time, box) in enumerate(boxes):
            if time is None:
                raise QueryError("a box of the tube has no time token")
            self.add_text(", " if number else "")
            self.add_time(time)
            self.add_text(": [")
            self.add_box(box)
            self.add_text("]")

    def result(self) -> FormattedAnswer:
        return FormattedAnswer("".join(self._text), tuple(self._values))

    def _coordinate(self, axis: Axis, row: int, value: float) -> None:
        self._text.append(axis.token(row))
        self._values.append(value)


def format_answer(answer: Answer, coordinates: CoordinateVocabulary) -> FormattedAnswer:
    """Return the canonical text of an answer.

    Raises:
        QueryError: A part that the task's answers consist of is missing.
    """
    writer, task = _Writer(coordinates), answer.task
    if answer.no_match and task in NO_MATCH_TASKS:
        writer.add_text(NO_MATCH_TEXT)
    elif task in (Task.STVG, Task.TVG):
        writer.add_text(STVG_OPENER if task is Task.STVG else TVG_OPENER)
        writer.add_span(_required(answer.span, answer))
        writer.add_text("}")
        if task is Task.STVG:
            writer.add_text(". ")
            writer.add_tube(_required(answer.boxes, answer))
    elif task is Task.SVG:
        writer.add_tube(_required(answer.boxes, answer))
    elif task is Task.ELC:
        writer.add_text(ELC_OPENER)
        writer.add_time(_required(answer.span, answer)[1])
        writer.add_text(f", {_sentence(_required(answer.caption, answer))}. ")
        writer.add_tube(_required(answer.boxes, answer))
    elif task is Task.REC:
        writer.add_text(REC_OPENER)
        writer.add_box(_required(answer.boxes, answer)[0][1])
        writer.add_text("]")
    elif task is Task.DGC:
        _write_phrases(writer, answer)
    elif task is Task.DVC:
        for number, (span, caption) in enumerate(_required(answer.segments, answer)):
            writer.add_text(" {" if number else "{")
            writer.add_span(span)
            writer.add_text(f"}}, {_sentence(caption)}.")
    else:
        writer.add_text(_plain(_required(answer.caption or answer.text, answer)))
    return writer.result()


def _write_phrases(writer: _Writer, answer: Answer) -> None:
    """Write each box after its phrase in the caption, or after the phrase alone if not in it."""
    caption, start = _plain(answer.caption or ""), 0
    for number, (phrase, box) in enumerate(_required(answer.phrases, answer)):
        phrase = _plain(phrase)
        index = caption.find(phrase, start) if phrase else -1
        if index >= 0:
            writer.add_text(caption[start : index + len(phrase)])
            start = index + len(phrase)
        else:
            writer.add_text(f"{' ' if number else ''}{phrase}")
        writer.add_text(" [")
        writer.add_box(box)
        writer.add_text("]")
    writer.add_text(caption[start:])


def _plain(text: str) -> str:
    """Return words that cannot be parsed as coordinates: no special tokens, no brackets."""
    return plain_words(text).translate(str.maketrans("[]{}", "()()"))


def _sentence(text: str) -> str:
    return _plain(text).strip(" ,").rstrip(". ")


def _required(part: _Part | None, answer: Answer) -> _Part:
    if not part:
        raise QueryError(
            f"a part of the {answer.task.value} answer is missing; "
            "expected the span, boxes, caption, phrases or segments of the task's answers"
        )
    return part
