"""From questions to token ids: the chat template, the visual block and the question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import COORDINATE, Axis
from llava_st_ros.errors import ConfigError, QueryError
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.text.answer_format import FormattedAnswer
from llava_st_ros.text.tokenizer import CHAT_END, CHAT_START, Tokenizer

_HEAD = f"{CHAT_START}system\nYou are a helpful assistant.{CHAT_END}\n{CHAT_START}user\n"
_TO_ASSISTANT = f"{CHAT_END}\n{CHAT_START}assistant\n"
_TO_USER = f"\n{CHAT_START}user\n"
_PLACEHOLDERS = re.compile(f"({'|'.join(axis.input_token for axis in Axis)})")


class UserTurn(Protocol):
    """The user's turn: a ``tasks.Question``, or a question of a training record.

    Attributes:
        modality: The visual input that the turn is about.
        text: Its words, with a placeholder such as ``<TEMP-INPUT>`` for every coordinate.
        inputs: The coordinates of each axis, values in [0, 1], in the order of the placeholders.
    """

    @property
    def modality(self) -> Modality: ...

    @property
    def text(self) -> str: ...

    @property
    def inputs(self) -> Mapping[Axis, tuple[float, ...]]: ...


@dataclass(frozen=True)
class LabeledPrompt:
    """A prompt of L tokens that contains its answers, for training.

    Attributes:
        prompt: Questions and answers.
        labels_mask: bool [L], True on the tokens of the answers and their end tokens.
        coordinate_values: float32 [L], the exact values in [0, 1] of the answers' coordinate
            tokens, NaN elsewhere.
    """

    prompt: Prompt
    labels_mask: np.ndarray
    coordinate_values: np.ndarray


class PromptBuilder:
    """Builds the prompts of one checkpoint.

    Raises:
        CheckpointError: The tokenizer and the config belong to different checkpoints.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        tokenizer.check_fits(config)
        self._tokenizer, self._config = tokenizer, config
        head, special = tokenizer.encode(_HEAD), config.special_tokens
        self._openings = {kind: head + visual_block(config, kind) for kind in Modality}
        self._to_assistant = tokenizer.encode(_TO_ASSISTANT)
        self._to_user = tokenizer.encode(_TO_USER)
        self._inputs = {axis.input_token: special.input_of(axis) for axis in Axis}
        # Slot i of the window uses row i of the temporal table, which may have more rows.
        self._time_scale = (config.num_frames - 1) / max(1, config.num_temporal_tokens - 1)

    def build(self, question: UserTurn) -> Prompt:
        """Return the prompt of a question, up to and including ``<|im_start|>assistant\\n``."""
        ids = [
            *self._openings[question.modality],
            *self._question_ids(question, "\n"),
            *self._to_assistant,
        ]
        return self._prompt(ids, [question])

    def answer_length(self, answer: FormattedAnswer) -> int:
        """Return the number of tokens of an answer and its end token."""
        return len(self._answer_ids(answer)[0]) + 1

    def build_labeled(self, turns: Sequence[tuple[UserTurn, FormattedAnswer]]) -> LabeledPrompt:
        """Return the prompt of one or more questions about one visual input, with their answers.

        The visual block precedes the first question.

        Args:
            turns: The questions and their answers.

        Raises:
            QueryError: There is no turn, or the turns differ in modality.
        """
        if not turns or len({question.modality for question, _ in turns}) != 1:
            raise QueryError(
                "no turn, or turns about an image and about a video; "
                "expected one or more turns about the same visual input"
            )
        ids = list(self._openings[turns[0][0].modality])
        mask = [False] * len(ids)
        values = [float("nan")] * len(ids)
        for number, (question, answer) in enumerate(turns):
            lead = self._to_user if number else []
            words = self._question_ids(question, "" if number else "\n")
            question_ids = [*lead, *words, *self._to_assistant]
            answer_ids, answer_values = self._answer_ids(answer)
            ids += [*question_ids, *answer_ids, self._tokenizer.chat_end]
            mask += [False] * len(question_ids) + [True] * (len(answer_ids) + 1)
            values += [float("nan")] * len(question_ids) + answer_values + [float("nan")]
        return LabeledPrompt(
            self._prompt(ids, [question for question, _ in turns]),
            np.asarray(mask, dtype=bool),
            np.asarray(values, dtype=np.float32),
        )

    def _prompt(self, ids: list[int], questions: Sequence[UserTurn]) -> Prompt:
        return Prompt(
            np.asarray(ids, dtype=np.int64),
            questions[0].modality,
            tuple(v * self._time_scale for q in questions for v in q.inputs[Axis.TIME]),
            tuple(v for q in questions for v in q.inputs[Axis.HEIGHT]),
            tuple(v for q in questions for v in q.inputs[Axis.WIDTH]),
        )

    def _question_ids(self, question: UserTurn, prefix: str) -> list[int]:
        """Tokenize a question; placeholders are the only special tokens, one for each value."""
        parts = _PLACEHOLDERS.split(prefix + question.text)
        for axis, values in question.inputs.items():
            name = axis.input_token
            if parts.count(name) != len(values):
                raise QueryError(
                    f"the question has {parts.count(name)} {name} but {len(values)} values; "
                    "expected one value for each",
                    "use tasks.make_question",
                )
        ids: list[int] = []
        for part in parts:
            ids += (
                [self._inputs[part]] if part in self._inputs else self._tokenizer.encode_user(part)
            )
        return ids

    def _answer_ids(self, answer: FormattedAnswer) -> tuple[list[int], list[float]]:
        """Tokenize an answer; coordinate tokens are the only special tokens."""
        ids: list[int] = []
        values: list[float] = []
        parts = COORDINATE.split(answer.text)  # words, kind, row, words, kind, row, ..., words
        num_tokens, num_values = len(parts) // 3, len(answer.values)
        if num_tokens != num_values:
            raise QueryError(
                f"the answer has {num_tokens} coordinate tokens but {num_values} values; "
                "expected one value for each",
                "use answers.format_answer",
            )
        for index in range(0, len(parts), 3):
            words = self._tokenizer.encode_user(parts[index])
            ids += words
            values += [float("nan")] * len(words)
            if index + 2 < len(parts):
                ids.append(self._coordinate_id(parts[index + 1], int(parts[index + 2])))
                values.append(answer.values[index // 3])
        return ids, values

    def _coordinate_id(self, kind: str, row: int) -> int:
        axis = Axis.of_kind(kind)
        ids = self._config.coordinates.ids(axis)
        if row >= len(ids):
            raise QueryError(f"{axis.token(row)} in an answer; expected a row below {len(ids)}")
        return ids[row]


def visual_block(config: ModelConfig, modality: Modality) -> list[int]:
    """Return the ids at the positions of the visual tokens: an image's, or fast and slow ones."""
    special = config.special_tokens
    if modality is Modality.IMAGE:
        return _block(special.im_start, special.im_patch, special.im_end, config.tokens_per_frame)
    return [
        *_block(special.vid_start, special.vid_patch, special.vid_end, config.num_fast_tokens),
        *_block(
            special.slow_vid_start, special.vid_patch, special.slow_vid_end, config.num_slow_tokens
        ),
    ]


def _block(start: int, patch: int, end: int, tokens: int) -> list[int]:
    if tokens < 2:
        raise ConfigError(
            f"the visual block has {tokens} tokens; expected at least 2",
            "raise num_frames or image_size",
        )
    return [start] + [patch] * (tokens - 2) + [end]
