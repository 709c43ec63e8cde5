"""ST-Align's record format: conversations about an image or a video, coordinates kept apart.

A file is a JSON list of records, or has one record per line (``.jsonl``). A record has the form
that the published training code reads::

    {"id": ..., "video": "a.mp4" (or "image": "a.jpg"),
     "conversations": [{"from": "human", "value": "<video>\\nWhen ...?"},
                       {"from": "gpt", "value": "During the period {<TEMP-OUTPUT><TEMP-OUTPUT>}"}],
     "variables": {"temporal_input_locations": [], "temporal_output_locations": [0.25, 0.5], ...},
     "meta": {"split": [first frame, last frame]}}

The text has a placeholder for every coordinate: INPUT in questions, OUTPUT in answers.
``variables`` has a list for each kind of placeholder, with the values in reading order over the
complete conversation: times as fractions of the window (of the split, if there is one), heights and
widths as fractions of the frame. ``variables`` and ``meta`` are optional.

The published reader replaces an unusable record by the next one, clips values to [0, 1] and ignores
surplus values. Here each of these makes a record bad, and bad records are reported
(``bad_records``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import COORDINATE, INPUT, OUTPUT, Axis
from llava_st_ros.errors import DataError
from llava_st_ros.files.json_files import Invalid
from llava_st_ros.records import Modality
from llava_st_ros.text.answer_format import FormattedAnswer

TAGS = {Modality.IMAGE: "<image>", Modality.VIDEO: "<video>"}
HUMAN, MODEL = "human", "gpt"
VARIABLES = {  # placeholder -> key of ``variables``
    placeholder: f"{axis.table}_{side}_locations"
    for axis in Axis
    for side, placeholder in (("input", axis.input_token), ("output", axis.output_token))
}


@dataclass(frozen=True)
class RecordQuestion:
    """A question of a record, not tied to a task: a ``text.prompt.UserTurn``.

    Attributes:
        modality: What the record is about.
        text: The words, with INPUT placeholders.
        inputs: The placeholders' values of each axis, in reading order.
    """

    modality: Modality
    text: str
    inputs: Mapping[Axis, tuple[float, ...]] = field(
        default_factory=lambda: dict.fromkeys(Axis, ())
    )


@dataclass(frozen=True)
class RecordAnswer:
    """An answer of a record: ``text`` with OUTPUT placeholders, their ``values`` in reading order.

    Times are fractions of the window, heights and widths of the frame.
    """

    text: str
    values: tuple[float, ...]

    def formatted(self, config: ModelConfig) -> FormattedAnswer:
        """Return the answer in a model's coordinate tokens, and their exact values.

        Where the model's table of times has more rows than the window has frames, the values are
        scaled from fractions of the window to fractions of the table.
        """
        time_scale = (config.num_frames - 1) / max(1, config.num_temporal_tokens - 1)
        values: list[float] = []

        def token(match: re.Match[str]) -> str:
            axis, value = Axis.of_kind(match[1]), self.values[len(values)]
            values.append(value * time_scale if axis is Axis.TIME else value)
            return axis.token(config.coordinates.nearest_row(axis, values[-1]))

        return FormattedAnswer(OUTPUT.sub(token, self.text), tuple(values))


@dataclass(frozen=True)
class Record:
    """A conversation about an image or a video.

    Attributes:
        source: Where the record is from, "file:index", for messages.
        media: The path of the image or video, as the file spells it.
        modality: Which of the two it is.
        turns: The questions and their answers.
        split: First and last frame of the window, both included; None for the complete video.
    """

    source: str
    media: str
    modality: Modality
    turns: tuple[tuple[RecordQuestion, RecordAnswer], ...]
    split: tuple[int, int] | None


def parse(value: Any, source: str) -> Record:
    """Check a record's JSON value and parse it.

    Raises:
        DataError: The record is bad; the message does not repeat ``source``.
    """
    if isinstance(value, Invalid):
        raise DataError(f"the record is not valid JSON: {value.reason}")
    if not isinstance(value, Mapping):
        raise DataError(f"the record is a {type(value).__name__}; expected a JSON object")
    modality, media = _media(value)
    tag = TAGS[modality]
    texts = _texts(value)
    _check_tag(texts, tag)
    variables = dict(zip(VARIABLES.values(), _checked_variables(value, texts)))
    unread = {key: iter(values) for key, values in variables.items()}
    turns = []
    for number in range(0, len(texts), 2):
        question = _without_tag(texts[number], tag) if number == 0 else texts[number]
        answer = texts[number + 1]
        inputs = {
            axis: tuple(_next_values(re.findall(axis.input_token, question), unread))
            for axis in Axis
        }
        outputs = tuple(_next_values([match[0] for match in OUTPUT.finditer(answer)], unread))
        turns.append((RecordQuestion(modality, question, inputs), RecordAnswer(answer, outputs)))
    return Record(source, media, modality, tuple(turns), _split(value, modality))


def _media(value: Mapping[str, Any]) -> tuple[Modality, str]:
    given = [kind.value for kind in Modality if value.get(kind.value) is not None]
    if len(given) != 1:
        found = "an image and a video" if given else "no image or video"
        raise DataError(f"the record names {found}; expected exactly one of the two")
    media = value[given[0]]
    if isinstance(media, list) and len(media) == 1:
        media = media[0]
    if not isinstance(media, str) or not media:
        raise DataError(f"{given[0]} is {media!r}; expected one path")
    return Modality(given[0]), media


def _texts(value: Mapping[str, Any]) -> list[str]:
    """The messages' texts, question and answer by turns: an even number."""
    messages = value.get("conversations")
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError("conversations is missing or too short; expected a question and its answer")
    texts = []
    for number, message in enumerate(messages):
        expected = MODEL if number % 2 else HUMAN
        role = message.get("from") if isinstance(message, Mapping) else None
        if role != expected:
            raise DataError(f"message {number} is from {role!r}; expected {expected!r}")
        text = message.get("value")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"message {number} has no text")
        if token := COORDINATE.search(text):
            raise DataError(
                f"message {number} contains {token[0]}"
                "; expected a placeholder, with its value in variables"
            )
        misplaced = INPUT if number % 2 else OUTPUT
        if found := misplaced.search(text):
            raise DataError(
                f"message {number} contains {found[0]}"
                "; expected INPUT in questions and OUTPUT in answers"
            )
        texts.append(text)
    if len(texts) % 2:
        raise DataError("the last question has no answer")
    return texts


def _check_tag(texts: Sequence[str], tag: str) -> None:
    tags = sum(text.count(known) for text in texts for known in TAGS.values())
    if texts[0].count(tag) != 1 or tags != 1:
        raise DataError(
            f"found {tags} tags ({', '.join(TAGS.values())}), {texts[0].count(tag)} {tag} in the "
            f"first question; expected one {tag}, in the first question"
        )


def _without_tag(text: str, tag: str) -> str:
    """The first question without its tag, which may be anywhere in it, as in the published data."""
    if text.startswith(tag):
        text = text[len(tag) :].removeprefix("\n")
    else:
        text = text.replace(tag, "").strip()
    if not text.strip():
        raise DataError(f"the first question has no text besides {tag}")
    return text


def _checked_variables(value: Mapping[str, Any], texts: Sequence[str]) -> Iterator[list[float]]:
    """The values of each kind of placeholder, in the order of VARIABLES."""
    variables = value.get("variables") or {}
    if not isinstance(variables, Mapping):
        raise DataError(f"variables is a {type(variables).__name__}; expected an object of lists")
    for placeholder, key in VARIABLES.items():
        values = variables.get(key, [])
        if not isinstance(values, list):
            raise DataError(f"{key} is a {type(values).__name__}; expected a list")
        for number in values:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not 0.0 <= number <= 1.0:  # false for NaN too
                raise DataError(f"{key} contains {number!r}; expected numbers in [0, 1]")
        count = sum(text.count(placeholder) for text in texts)
        if count != len(values):
            raise DataError(
                f"{count} {placeholder} but {len(values)} values in {key}; expected equal counts"
            )
        yield [float(number) for number in values]


def _next_values(
    placeholders: Sequence[str], unread: Mapping[str, Iterator[float]]
) -> Iterator[float]:
    for placeholder in placeholders:
        yield next(unread[VARIABLES[placeholder]])


def _split(value: Mapping[str, Any], modality: Modality) -> tuple[int, int] | None:
    meta = value.get("meta")
    split = meta.get("split") if isinstance(meta, Mapping) else None
    if modality is Modality.IMAGE or split is None:
        return None
    is_integers = isinstance(split, list) and all(type(part) is int for part in split)
    if not is_integers or len(split) != 2 or not 0 <= split[0] <= split[1]:
        raise DataError(f"split is {split!r}; expected [first frame, last frame]")
    return split[0], split[1]
