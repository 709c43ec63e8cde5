"""The text of an answer during parsing, with its coordinate tokens as single characters.

Each coordinate token becomes one private-use character of ``AnswerText.marked``. Regular
expressions can then match "a time, then four corners", and words that spell a coordinate token are
not mistaken for one when the answer is given as ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import COORDINATE, CORNERS, Axis
from llava_st_ros.records import Box
from llava_st_ros.text.tokenizer import CHAT_END, CHAT_START, STRUCTURE, Tokenizer

_ROWS = 0x4000
_PLANE = {axis: 0xF0000 + number * _ROWS for number, axis in enumerate(Axis)}
_PRIVATE = re.compile("[\U000f0000-\U000fbfff]")
_CONSUMED = "\ue000"  # replaces the parsed characters in ``AnswerText.unparsed``
_STRUCTURE = re.compile("|".join(re.escape(t) for t in (CHAT_START, *STRUCTURE.values())))
MAX_PROBLEMS = 20


def character_class(axis: Axis) -> str:
    """Return the regular expression that matches an axis's private characters."""
    first = _PLANE[axis]
    return f"[{chr(first)}-{chr(first + _ROWS - 1)}]"


def mark(axis: Axis, row: int) -> str:
    """Return the private character of a coordinate token."""
    return chr(_PLANE[axis] + min(row, _ROWS - 1))


class AnswerText:
    """An answer and the parts of it that are already parsed.

    Attributes:
        marked: The answer, coordinate tokens as private characters.
        unparsed: ``marked`` with the parsed parts blanked out.
        problems: What could not be parsed, one line each.
    """

    def __init__(self, marked: str, config: ModelConfig, problems: Iterable[str] = ()) -> None:
        self.marked, self.unparsed = marked, marked
        self.problems = list(problems)
        self._config = config

    @property
    def text(self) -> str:
        """The answer, coordinate tokens spelled out."""
        return _spelled(self.marked).strip()

    def add_problem(self, line: str) -> None:
        if len(self.problems) < MAX_PROBLEMS and line not in self.problems:
            self.problems.append(line)

    def consume(self, span: tuple[int, int]) -> None:
        """Mark the characters start..end-1 as parsed."""
        start, end = span
        self.unparsed = self.unparsed[:start] + _CONSUMED * (end - start) + self.unparsed[end:]

    def next_consumed(self, start: int) -> int | None:
        """Return the index of the first parsed character from ``start`` on."""
        index = self.unparsed.find(_CONSUMED, start)
        return None if index < 0 else index

    def words_between(self, start: int, end: int | None) -> str:
        """Return the words between two indices, without coordinate tokens."""
        return " ".join(_PRIVATE.sub(" ", self.marked[start:end]).split())

    def parse_time(self, character: str) -> int | None:
        """Return the slot of a time token; None and a problem if it is past the window."""
        row, frames = ord(character) - _PLANE[Axis.TIME], self._config.num_frames
        if row < frames:
            return row
        self.add_problem(f"time {row} is past the window of {frames} frames")
        return None

    def parse_span(self, first: str, last: str) -> tuple[int, int] | None:
        """Return a span of two time tokens, swapped with a problem if it ends before it starts."""
        start, end = self.parse_time(first), self.parse_time(last)
        if start is None or end is None:
            return None
        if end < start:
            self.add_problem(f"the span {start} to {end} ends before it starts; swapped")
        return min(start, end), max(start, end)

    def parse_box(self, corners: Sequence[str]) -> Box | None:
        """Return the box of x1, y1, x2, y2 characters, corners swapped if necessary."""
        coordinates = self._config.coordinates
        edges = []
        for axis, character in zip(CORNERS, corners):
            row, rows = ord(character) - _PLANE[axis], coordinates.rows(axis)
            if row >= rows:
                self.add_problem(f"{axis.token(row)} is not one of {rows} rows")
                return None
            edges.append(coordinates.value(axis, row))
        x1, y1, x2, y2 = edges
        if x1 > x2 or y1 > y2:
            self.add_problem("a box has its corners swapped; corrected")
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    def report_unparsed(self) -> None:
        """Add a problem if there are coordinate tokens that are not parsed."""
        unused = _PRIVATE.findall(self.unparsed)
        if unused:
            self.add_problem(
                f"{len(unused)} coordinate tokens are not part of a complete box or span, "
                f"first {_spelled(unused[0])}"
            )


def read_text(text: str, config: ModelConfig) -> AnswerText:
    """Mark the coordinate tokens in a text, up to the first end token."""
    problems = []
    text = _PRIVATE.sub("\N{REPLACEMENT CHARACTER}", text.split(CHAT_END, 1)[0])
    if _STRUCTURE.search(text):
        problems.append("the answer contains structural tokens")
        text = _STRUCTURE.sub(" ", text)
    return AnswerText(COORDINATE.sub(_marked, text), config, problems)


def read_ids(ids: Sequence[int], config: ModelConfig, tokenizer: Tokenizer | None) -> AnswerText:
    """Mark the coordinate ids and decode the words between them, up to the first end token."""
    ends = set(config.end_token_ids) | ({tokenizer.chat_end} if tokenizer else set())
    pieces: list[str] = []
    text_ids: list[int] = []
    problems: dict[str, None] = {}

    def flush() -> None:
        if text_ids and tokenizer is not None:
            decoded = tokenizer.decode(text_ids)
            pieces.append(_PRIVATE.sub("\N{REPLACEMENT CHARACTER}", decoded))
        elif text_ids:
            problems["words are missing: they cannot be decoded without the tokenizer"] = None
        text_ids.clear()

    structure = set(vars(config.special_tokens).values())
    if tokenizer is not None:
        structure.add(tokenizer.chat_start)
    for number in (int(i) for i in ids):
        if number in ends:
            break
        coordinate = config.coordinates.locate(number)
        if coordinate is not None:
            flush()
            pieces.append(mark(*coordinate))
        elif number in structure:
            problems["the answer contains structural tokens"] = None
        elif 0 <= number < config.language.vocab_size:
            text_ids.append(number)
        else:
            problems[f"id {number} is outside the vocabulary"] = None
    flush()
    answer = AnswerText("".join(pieces), config)
    for line in problems:
        answer.add_problem(line)
    return answer


def _marked(match: re.Match[str]) -> str:
    digits = match.group(2)
    return mark(Axis.of_kind(match.group(1)), int(digits) if len(digits) < 8 else _ROWS - 1)


def _spelled(marked: str) -> str:
    def token(match: re.Match[str]) -> str:
        code = ord(match.group())
        axis = max((a for a in Axis if _PLANE[a] <= code), key=lambda a: _PLANE[a])
        return axis.token(code - _PLANE[axis])

    return _PRIVATE.sub(token, marked)
