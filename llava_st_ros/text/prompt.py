"""Questions to token ids: the chat template around the visual block and the question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import COORDINATE, Axis
from llava_st_ros.errors import ConfigError, QueryError
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.text.answer_format import FormattedAnswer
from llava_st_ros.text.tasks import Question
from llava_st_ros.text.tokenizer import CHAT_END, CHAT_START, Tokenizer

_HEAD = f"{CHAT_START}system\nYou are a helpful assistant.{CHAT_END}\n{CHAT_START}user\n"
_TO_ASSISTANT = f"{CHAT_END}\n{CHAT_START}assistant\n"
_TO_USER = f"\n{CHAT_START}user\n"
_PLACEHOLDERS = re.compile(f"({'|'.join(axis.input_token for axis in Axis)})")


@dataclass(frozen=True)
class LabeledPrompt:
    """Questions with their answers, for training. L tokens.

    ``labels_mask`` bool [L] is True on the answers' tokens and the end token that closes each;
    ``coordinate_values`` float32 [L] holds the exact value in [0, 1] at the answers' coordinate
    tokens, NaN elsewhere.
    """

    prompt: Prompt
    labels_mask: np.ndarray
    coordinate_values: np.ndarray


class PromptBuilder:
    """Lays out prompts for one checkpoint. Raises CheckpointError if the tokenizer is another's."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        tokenizer.check_fits(config)
        self._tokenizer, self._config = tokenizer, config
        head, special = tokenizer.encode(_HEAD), config.special_tokens
        self._openings = {kind: head + visual_block(config, kind) for kind in Modality}
        self._to_assistant = tokenizer.encode(_TO_ASSISTANT)
        self._to_user = tokenizer.encode(_TO_USER)
        self._inputs = {axis.input_token: special.input_of(axis) for axis in Axis}
        # Frame i of a window has row i of a table that may be longer than the window.
        self._time_scale = (config.num_frames - 1) / max(1, config.num_temporal_tokens - 1)

    def build(self, question: Question) -> Prompt:
        """The prompt of a question, up to and with ``<|im_start|>assistant`` and a line end."""
        ids = [
            *self._openings[question.task.modality],
            *self._question_ids(question, "\n"),
            *self._to_assistant,
        ]
        return self._prompt(ids, [question])

    def build_labeled(self, turns: Sequence[tuple[Question, FormattedAnswer]]) -> LabeledPrompt:
        """Several questions about one visual input, each with its answer; see LabeledPrompt.

        The visual block stands in the first question only.
        """
        if not turns or len({question.task.modality for question, _ in turns}) != 1:
            raise QueryError(
                "no turn, or turns about an image and about a video"
                "; expected one or more turns about the same visual input",
                "split the conversation",
            )
        ids = list(self._openings[turns[0][0].task.modality])
        mask = [False] * len(ids)
        values = [float("nan")] * len(ids)
        for number, (question, answer) in enumerate(turns):
            lead = self._to_user if number else []
            words = self._question_ids(question, "" if number else "\n")
            asked = [*lead, *words, *self._to_assistant]
            answered, exact = self._answer_ids(answer)
            ids += [*asked, *answered, self._tokenizer.chat_end]
            mask += [False] * len(asked) + [True] * (len(answered) + 1)
            values += [float("nan")] * len(asked) + exact + [float("nan")]
        return LabeledPrompt(
            self._prompt(ids, [question for question, _ in turns]),
            np.asarray(mask, dtype=bool),
            np.asarray(values, dtype=np.float32),
        )

    def _prompt(self, ids: list[int], questions: Sequence[Question]) -> Prompt:
        return Prompt(
            np.asarray(ids, dtype=np.int64),
            questions[0].task.modality,
            tuple(v * self._time_scale for q in questions for v in q.temporal_inputs),
            tuple(v for q in questions for v in q.height_inputs),
            tuple(v for q in questions for v in q.width_inputs),
        )

    def _question_ids(self, question: Question, lead: str) -> list[int]:
        """Only placeholders become special tokens, and only as many as there are values."""
        parts = _PLACEHOLDERS.split(lead + question.text)
        for axis, values in question.inputs.items():
            name = axis.input_token
            if parts.count(name) != len(values):
                raise QueryError(
                    f"{parts.count(name)} {name} in a question with {len(values)} values"
                    "; expected a value for each",
                    "make questions with tasks.question or tasks.question_from_query",
                )
        ids: list[int] = []
        for part in parts:
            ids += (
                [self._inputs[part]] if part in self._inputs else self._tokenizer.encode_user(part)
            )
        return ids

    def _answer_ids(self, answer: FormattedAnswer) -> tuple[list[int], list[float]]:
        """Ids of an answer, each coordinate token's value beside it; only these are special."""
        ids: list[int] = []
        values: list[float] = []
        parts = COORDINATE.split(answer.text)  # words, kind, row, words, kind, row, ..., words
        spelled, given = len(parts) // 3, len(answer.values)
        if spelled != given:
            raise QueryError(
                f"{spelled} coordinate tokens in an answer with {given} values"
                "; expected a value for each",
                "make answers with answers.format_answer",
            )
        for place in range(0, len(parts), 3):
            words = self._tokenizer.encode_user(parts[place])
            ids += words
            values += [float("nan")] * len(words)
            if place + 2 < len(parts):
                ids.append(self._coordinate_id(parts[place + 1], int(parts[place + 2])))
                values.append(answer.values[place // 3])
        return ids, values

    def _coordinate_id(self, kind: str, row: int) -> int:
        axis = Axis.of_kind(kind)
        ids = self._config.coordinates.ids(axis)
        if row >= len(ids):
            raise QueryError(
                f"{axis.token(row)} in an answer; expected a row below {len(ids)}",
                "make answers with answers.format_answer",
            )
        return ids[row]


def visual_block(config: ModelConfig, modality: Modality) -> list[int]:
    """Ids of the positions that an image's, or a video's fast and slow, visual tokens take."""
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
            f"a visual block of {tokens} token; expected two or more",
            "raise num_frames or image_size",
        )
    return [start] + [patch] * (tokens - 2) + [end]
