"""Answers in the model's words: what training shows and what the grammar allows."""

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
# The answer to a question about something that is not there. The published models were never
# trained to say it; a task that looks for what words describe may be answered so.
NO_MATCH_TEXT = "Nothing matches."
NO_MATCH_TASKS = (Task.STVG, Task.SVG, Task.TVG, Task.REC)

# All fixed words, as they stand between coordinate tokens: a tokenizer should know them well.
FIXED_WORDS = (
    *(STVG_OPENER, TVG_OPENER, ELC_OPENER, REC_OPENER, TUBE_OPENER, NO_MATCH_TEXT),
    *("}. " + TUBE_OPENER, ". " + TUBE_OPENER, ": [", "], ", "]", "}", "{", "},", ". {", " ["),
)
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class FormattedAnswer:
    """An answer in the model's words. ``values`` are the exact values in [0, 1] of the coordinate
    tokens in ``text``, in the order in which they occur; the tokens themselves are rounded."""

    text: str
    values: tuple[float, ...]


class _Writer:
    """Text and the exact values of its coordinate tokens, grown together."""

    def __init__(self, coordinates: CoordinateVocabulary) -> None:
        self._coordinates = coordinates
        self._text: list[str] = []
        self._values: list[float] = []

    def words(self, text: str) -> None:
        self._text.append(text)

    def time(self, token: int) -> None:
        rows = self._coordinates.rows(Axis.TIME)
        if not 0 <= token < rows:
            raise QueryError(f"time token {token}; expected one of 0..{rows - 1}")
        self._coordinate(Axis.TIME, token, self._coordinates.value(Axis.TIME, token))

    def span(self, span: tuple[int, int]) -> None:
        self.time(span[0])
        self.time(span[1])

    def corners(self, box: Box) -> None:
        for axis, value in zip(CORNERS, (box.x1, box.y1, box.x2, box.y2)):
            value = min(1.0, max(0.0, float(value)))
            self._coordinate(axis, self._coordinates.nearest_row(axis, value), value)

    def tube(self, boxes: Sequence[tuple[int | None, Box]]) -> None:
        self.words(TUBE_OPENER)
        for number, (time, box) in enumerate(boxes):
            if time is None:
                raise QueryError("a box without a time token; expected one for each box")
            self.words(", " if number else "")
            self.time(time)
            self.words(": [")
            self.corners(box)
            self.words("]")

    def done(self) -> FormattedAnswer:
        return FormattedAnswer("".join(self._text), tuple(self._values))

    def _coordinate(self, axis: Axis, row: int, value: float) -> None:
        self._text.append(axis.token(row))
        self._values.append(value)


def format_answer(answer: Answer, coordinates: CoordinateVocabulary) -> FormattedAnswer:
    """The canonical text of an answer. Raises QueryError where the task's parts are missing."""
    writer, task = _Writer(coordinates), answer.task
    if answer.no_match and task in NO_MATCH_TASKS:
        writer.words(NO_MATCH_TEXT)
    elif task in (Task.STVG, Task.TVG):
        writer.words(STVG_OPENER if task is Task.STVG else TVG_OPENER)
        writer.span(_given(answer.span, answer))
        writer.words("}")
        if task is Task.STVG:
            writer.words(". ")
            writer.tube(_given(answer.boxes, answer))
    elif task is Task.SVG:
        writer.tube(_given(answer.boxes, answer))
    elif task is Task.ELC:
        writer.words(ELC_OPENER)
        writer.time(_given(answer.span, answer)[1])
        writer.words(f", {_sentence(_given(answer.caption, answer))}. ")
        writer.tube(_given(answer.boxes, answer))
    elif task is Task.REC:
        writer.words(REC_OPENER)
        writer.corners(_given(answer.boxes, answer)[0][1])
        writer.words("]")
    elif task is Task.DGC:
        _write_phrases(writer, answer)
    elif task is Task.DVC:
        for number, (span, caption) in enumerate(_given(answer.segments, answer)):
            writer.words(" {" if number else "{")
            writer.span(span)
            writer.words(f"}}, {_sentence(caption)}.")
    else:
        writer.words(_plain(_given(answer.caption or answer.text, answer)))
    return writer.done()


def _write_phrases(writer: _Writer, answer: Answer) -> None:
    """Boxes behind their phrases in the caption, or behind the bare phrases without one."""
    caption, start = _plain(answer.caption or ""), 0
    for number, (phrase, box) in enumerate(_given(answer.phrases, answer)):
        phrase = _plain(phrase)
        place = caption.find(phrase, start) if phrase else -1
        if place >= 0:
            writer.words(caption[start : place + len(phrase)])
            start = place + len(phrase)
        else:
            writer.words(f"{' ' if number else ''}{phrase}")
        writer.words(" [")
        writer.corners(box)
        writer.words("]")
    writer.words(caption[start:])


def _plain(text: str) -> str:
    """Words that cannot be taken for a place: no special tokens, no brackets."""
    return plain_words(text).translate(str.maketrans("[]{}", "()()"))


def _sentence(text: str) -> str:
    return _plain(text).strip(" ,").rstrip(". ")


def _given(part: _Part | None, answer: Answer) -> _Part:
    if not part:
        raise QueryError(
            f"a {answer.task.value} answer with a part missing"
            "; expected the span, boxes, caption, phrases or segments that the task answers with",
            "complete the answer",
        )
    return part
