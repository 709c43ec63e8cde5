"""An answer being read: words and coordinates in one string, and what of it is used up.

Each coordinate token is a single private-use character in ``Reading.marked``, so that regular
expressions can say "a time, then four corners", and so that words which merely spell a token
cannot be taken for one when the answer comes as ids.
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
_USED = "\ue000"  # takes the place of what has been read in ``Reading.rest``
_STRUCTURE = re.compile("|".join(re.escape(t) for t in (CHAT_START, *STRUCTURE.values())))
MAX_PROBLEMS = 20


def character_class(axis: Axis) -> str:
    """The regular expression of an axis's private characters."""
    first = _PLANE[axis]
    return f"[{chr(first)}-{chr(first + _ROWS - 1)}]"


def mark(axis: Axis, row: int) -> str:
    """The private character of a coordinate token."""
    return chr(_PLANE[axis] + min(row, _ROWS - 1))


class Reading:
    """``marked`` is the answer; ``rest`` the same with what has been taken blanked out."""

    def __init__(self, marked: str, config: ModelConfig, problems: Iterable[str] = ()) -> None:
        self.marked, self.rest = marked, marked
        self.problems = list(problems)
        self._config = config

    @property
    def text(self) -> str:
        """The answer with its coordinate tokens spelled out."""
        return _spelled(self.marked).strip()

    def problem(self, line: str) -> None:
        if len(self.problems) < MAX_PROBLEMS and line not in self.problems:
            self.problems.append(line)

    def take(self, span: tuple[int, int]) -> None:
        start, end = span
        self.rest = self.rest[:start] + _USED * (end - start) + self.rest[end:]

    def first_taken(self, after: int) -> int | None:
        """Where the next part that has been taken begins."""
        place = self.rest.find(_USED, after)
        return None if place < 0 else place

    def words(self, start: int, end: int | None) -> str:
        """The words between two places, without coordinate tokens."""
        return " ".join(_PRIVATE.sub(" ", self.marked[start:end]).split())

    def time(self, character: str) -> int | None:
        """A time token's frame, or None (and a problem) beyond the window."""
        row, frames = ord(character) - _PLANE[Axis.TIME], self._config.num_frames
        if row < frames:
            return row
        self.problem(f"time {row} in a window of {frames} frames")
        return None

    def ordered_span(self, first: str, last: str) -> tuple[int, int] | None:
        start, end = self.time(first), self.time(last)
        if start is None or end is None:
            return None
        if end < start:
            self.problem(f"a span from {start} to {end}, turned round")
        return min(start, end), max(start, end)

    def box(self, corners: Sequence[str]) -> Box | None:
        """x1, y1, x2, y2 characters -> a box; turned corners are set right, as a problem."""
        coordinates = self._config.coordinates
        found = []
        for axis, character in zip(CORNERS, corners):
            row, rows = ord(character) - _PLANE[axis], coordinates.rows(axis)
            if row >= rows:
                self.problem(f"{axis.token(row)} with {rows} rows")
                return None
            found.append(coordinates.value(axis, row))
        x1, y1, x2, y2 = found
        if x1 > x2 or y1 > y2:
            self.problem("a box with its corners exchanged, set right")
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    def report_rest(self) -> None:
        """Note coordinate tokens that belong to nothing whole."""
        left = _PRIVATE.findall(self.rest)
        if left:
            self.problem(
                f"{len(left)} coordinate tokens that belong to nothing whole, "
                f"first {_spelled(left[0])}"
            )


def read_text(text: str, config: ModelConfig) -> Reading:
    """Mark the coordinate tokens spelled in a text, which ends at the first end token."""
    problems = []
    text = _PRIVATE.sub("\N{REPLACEMENT CHARACTER}", text.split(CHAT_END, 1)[0])
    if _STRUCTURE.search(text):
        problems.append("structural tokens in the answer")
        text = _STRUCTURE.sub(" ", text)
    return Reading(COORDINATE.sub(_marked, text), config, problems)


def read_ids(ids: Sequence[int], config: ModelConfig, tokenizer: Tokenizer | None) -> Reading:
    """Mark the coordinate ids; the words between are decoded, up to the first end token."""
    ends = set(config.end_token_ids) | ({tokenizer.chat_end} if tokenizer else set())
    pieces: list[str] = []
    words: list[int] = []
    problems: dict[str, None] = {}

    def flush() -> None:
        if words and tokenizer is not None:
            decoded = tokenizer.decode(words)
            pieces.append(_PRIVATE.sub("\N{REPLACEMENT CHARACTER}", decoded))
        elif words:
            problems["words that need the tokenizer to be read"] = None
        words.clear()

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
            problems["structural tokens in the answer"] = None
        elif 0 <= number < config.language.vocab_size:
            words.append(number)
        else:
            problems[f"id {number} outside the vocabulary"] = None
    flush()
    reading = Reading("".join(pieces), config)
    for line in problems:
        reading.problem(line)
    return reading


def _marked(match: re.Match[str]) -> str:
    digits = match.group(2)
    return mark(Axis.of_kind(match.group(1)), int(digits) if len(digits) < 8 else _ROWS - 1)


def _spelled(marked: str) -> str:
    def token(match: re.Match[str]) -> str:
        code = ord(match.group())
        axis = max((a for a in Axis if _PLANE[a] <= code), key=lambda a: _PLANE[a])
        return axis.token(code - _PLANE[axis])

    return _PRIVATE.sub(token, marked)
