"""ST-Align's records: conversations about a picture or a video, with coordinates set apart.

A file is a JSON list, or one object a line (``.jsonl``), of records as the published training reads
them::

    {"id": ..., "video": "a.mp4" (or "image": "a.jpg"),
     "conversations": [{"from": "human", "value": "<video>\\nWhen ...?"},
                       {"from": "gpt", "value": "During the period {<TEMP-OUTPUT><TEMP-OUTPUT>}"}],
     "variables": {"temporal_input_locations": [], "temporal_output_locations": [0.25, 0.5], ...},
     "meta": {"split": [first frame, last frame]}}

Text holds a placeholder for every coordinate; ``variables`` has a list for each kind of placeholder
with its values in reading order over the whole conversation: times as fractions of the window
(of the split, where there is one), heights and widths of the frame. INPUT is for questions,
OUTPUT for answers. ``variables`` may be left out where there are none, and so may ``meta``.

The published reader replaces a record that it cannot use by the next one, clips values to [0, 1]
and ignores values left over; here each of these is a bad record, which is reported (bad_records).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import COORDINATE, INPUT, OUTPUT, Axis
from llava_st_ros.errors import DataError
from llava_st_ros.records import Modality, Task
from llava_st_ros.text.answer_format import FormattedAnswer
from llava_st_ros.text.tasks import Question

TAGS = {Modality.IMAGE: "<image>", Modality.VIDEO: "<video>"}  # what a question is about
HUMAN, MODEL = "human", "gpt"
VARIABLES = {  # placeholder -> key of ``variables``
    placeholder: f"{axis.table}_{side}_locations"
    for axis in Axis
    for side, placeholder in (("input", axis.input_token), ("output", axis.output_token))
}
_CORRECT = "correct the record or take it out"


@dataclass(frozen=True)
class Reply:
    """What the model says: ``text`` with OUTPUT placeholders, their ``values`` in reading order."""

    text: str
    values: tuple[float, ...]

    def formatted(self, config: ModelConfig) -> FormattedAnswer:
        """Placeholders become the tokens of the nearest rows; the exact values stay beside them.

        A time is a fraction of the window; on a table longer than the window its value is less.
        """
        share = (config.num_frames - 1) / max(1, config.num_temporal_tokens - 1)
        values: list[float] = []

        def token(match: re.Match[str]) -> str:
            axis, value = Axis.of_kind(match[1]), self.values[len(values)]
            values.append(value * share if axis is Axis.TIME else value)
            return axis.token(config.coordinates.nearest_row(axis, values[-1]))

        return FormattedAnswer(OUTPUT.sub(token, self.text), tuple(values))


@dataclass(frozen=True)
class Record:
    """A conversation about ``media``, as the file spells its path.

    ``source`` is "file:index" for messages. ``split`` are the first and last frame of a video's
    window, both included, None for the whole of it.
    """

    source: str
    media: str
    modality: Modality
    turns: tuple[tuple[Question, Reply], ...]
    split: tuple[int, int] | None


def read_values(path: Path) -> list[Any]:
    """What a file of records holds, unchecked: an item a record.

    Raises DataError where the file as a whole cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [_line(line) for line in text.split("\n") if line.strip()]
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected a JSON list of records") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: a JSON {type(values).__name__}; expected a list of records")
    return values


def _line(line: str) -> Any:
    """A line's record; one that is not JSON stays the text that it is, no record to ``parse``."""
    try:
        return json.loads(line)
    except ValueError:
        return line


def parse(value: Any, source: str) -> Record:
    """Check one record; raises DataError, whose message is one line without the source."""
    if not isinstance(value, Mapping):
        raise _bad(f"a {type(value).__name__}", "an object")
    modality, media = _media(value)
    tag = TAGS[modality]
    texts = _texts(value)
    _check_tag(texts, tag)
    rest = dict(zip(VARIABLES.values(), _checked_variables(value, texts)))
    cursors = {key: iter(values) for key, values in rest.items()}
    # All that is read of the task here is whether it is about a picture.
    task = Task.REG if modality is Modality.IMAGE else Task.TR
    turns = []
    for number in range(0, len(texts), 2):
        asked = _without(texts[number], tag) if number == 0 else texts[number]
        inputs = [tuple(_values(re.findall(axis.input_token, asked), cursors)) for axis in Axis]
        reply = texts[number + 1]
        said = tuple(_values([m[0] for m in OUTPUT.finditer(reply)], cursors))
        turns.append((Question(task, asked, *inputs), Reply(reply, said)))
    return Record(source, media, modality, tuple(turns), _split(value, modality))


def _media(value: Mapping[str, Any]) -> tuple[Modality, str]:
    given = [kind.value for kind in Modality if value.get(kind.value) is not None]
    if len(given) != 1:
        raise _bad(f"{' and '.join(given) or 'no image or video'}", "an image or a video")
    media = value[given[0]]
    if isinstance(media, list) and len(media) == 1:
        media = media[0]
    if not isinstance(media, str) or not media:
        raise _bad(f"{given[0]} {media!r}", "one path")
    return Modality(given[0]), media


def _texts(value: Mapping[str, Any]) -> list[str]:
    """The texts in turn, human and gpt: an even number."""
    said = value.get("conversations")
    if not isinstance(said, list) or len(said) < 2:
        raise _bad("no conversations", "a question and its answer, or more of them")
    texts = []
    for number, sentence in enumerate(said):
        expected = MODEL if number % 2 else HUMAN
        role = sentence.get("from") if isinstance(sentence, Mapping) else None
        if role != expected:
            raise _bad(f"{role!r} as speaker of sentence {number}", f"{expected!r}")
        text = sentence.get("value")
        if not isinstance(text, str) or not text.strip():
            raise _bad(f"sentence {number} without words", "text")
        if written := COORDINATE.search(text):
            raise _bad(f"{written[0]} in sentence {number}", "a placeholder and its value")
        misplaced = INPUT if number % 2 else OUTPUT
        if found := misplaced.search(text):
            raise _bad(
                f"{found[0]} in sentence {number}", "INPUT in questions and OUTPUT in answers"
            )
        texts.append(text)
    if len(texts) % 2:
        raise _bad("a question without an answer at the end", "an answer to every question")
    return texts


def _check_tag(texts: Sequence[str], tag: str) -> None:
    counts = [sum(text.count(known) for known in TAGS.values()) for text in texts]
    if texts[0].count(tag) != 1 or sum(counts) != 1:
        raise _bad(
            f"{sum(counts)} of {' and '.join(TAGS.values())}, "
            f"{texts[0].count(tag)} {tag} in the first question",
            f"one {tag}, in the first question",
        )


def _without(text: str, tag: str) -> str:
    """A first question's words. A tag amid them is taken to stand before them, as published."""
    if text.startswith(tag):
        text = text[len(tag) :].removeprefix("\n")
    else:
        text = text.replace(tag, "").strip()
    if not text.strip():
        raise _bad(f"nothing but {tag} in the first question", "a question")
    return text


def _checked_variables(value: Mapping[str, Any], texts: Sequence[str]) -> Iterator[list[float]]:
    """The values of each kind of placeholder, in the order of VARIABLES."""
    variables = value.get("variables") or {}
    if not isinstance(variables, Mapping):
        raise _bad(f"variables of type {type(variables).__name__}", "an object of lists")
    for placeholder, key in VARIABLES.items():
        values = variables.get(key, [])
        if not isinstance(values, list):
            raise _bad(f"{key} of type {type(values).__name__}", "a list")
        for number in values:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not 0.0 <= number <= 1.0:  # nor a NaN
                raise _bad(f"{number!r} in {key}", "numbers in [0, 1]")
        places = sum(text.count(placeholder) for text in texts)
        if places != len(values):
            raise _bad(f"{places} {placeholder} but {len(values)} values in {key}", "equal counts")
        yield [float(number) for number in values]


def _values(placeholders: Sequence[str], cursors: Mapping[str, Iterator[float]]) -> Iterator[float]:
    for placeholder in placeholders:
        yield next(cursors[VARIABLES[placeholder]])


def _split(value: Mapping[str, Any], modality: Modality) -> tuple[int, int] | None:
    meta = value.get("meta")
    split = meta.get("split") if isinstance(meta, Mapping) else None
    if modality is Modality.IMAGE or split is None:
        return None
    whole = isinstance(split, list) and all(type(part) is int for part in split)
    if not whole or len(split) != 2 or not 0 <= split[0] <= split[1]:
        raise _bad(f"split {split!r}", "[first frame, last frame]")
    return split[0], split[1]


def _bad(found: str, expected: str) -> DataError:
    return DataError(f"{found}; expected {expected}", _CORRECT)
