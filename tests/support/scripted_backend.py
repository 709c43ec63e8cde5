"""A backend with given answers, which shows which frames it has seen.

Sampling, prompt, grammar, decoding and parsing are the product's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from llava_st_ros.backends.base import BackendDescription
from llava_st_ros.records import Answer, Modality
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from support.answer_cache import AnswerCache
from support.stream_config import stream_config

LOGIT = 6.0  # the others are 0: a probability of about 0.8 among 100 tokens
BITS = 6  # of a frame's number in ``numbered_frames``


def numbered_frames(count: int, width: int, height: int) -> np.ndarray:
    """uint8 [count, height, width, 3]: black and white bars say a frame's number in binary."""
    bars = np.arange(width) * BITS // width
    white = (np.arange(count)[:, None] >> bars) & 1
    frames = np.broadcast_to(white[:, None, :, None] * 255, (count, height, width, 3))
    return frames.astype(np.uint8)


def frame_number(image: np.ndarray) -> int:
    """The number of an image of ``numbered_frames``, of any size."""
    columns = np.array_split(image.mean(axis=(0, 2)), BITS)
    return sum(int(column.mean() > 128) << bit for bit, column in enumerate(columns))


def scripted_tokenizer() -> Tokenizer:
    texts = ["the red box moves right in this video: During the span of. Object bounding box: "]
    return train_tokenizer(texts, 400, 20, 100)


class ScriptedBackend:
    """Answers each query by a pattern of its prompt.

    Args:
        tokenizer: The tokenizer.
        answers: The answer to prompts in which a regular expression is found; an exception is
            raised instead. The first that is found counts.

    Attributes:
        windows: The numbers of the frames of each window that was packed.
        encoded: The number of frames that were encoded.
    """

    def __init__(self, tokenizer: Tokenizer, answers: Mapping[str, Answer | BaseException]) -> None:
        self.tokenizer, self.answers = tokenizer, answers
        self.model = stream_config(tokenizer)
        self.windows: list[tuple[int, ...]] = []
        self.encoded = 0

    def describe(self) -> BackendDescription:
        return BackendDescription("scripted", self.model, "cpu", "exact")

    def encode_frame(self, image: np.ndarray) -> int:
        self.encoded += 1
        return frame_number(image)

    def pack(self, features, time_indices):
        self.windows.append(tuple(features))
        return "visual"

    def image_tokens(self, features):
        self.windows.append((features,))
        return "visual"

    def embed(self, prompt, visual):
        special = self.model.special_tokens
        end = special.im_end if prompt.modality is Modality.IMAGE else special.slow_vid_end
        return [(int(i), visual if int(i) == end else None) for i in prompt.token_ids]

    def new_cache(self):
        return AnswerCache()

    def prefill(self, embeddings, cache) -> np.ndarray:
        cache.items.extend(embeddings)
        text = self.tokenizer.decode([item[0] for item in cache.items if isinstance(item, tuple)])
        cache.answer = self._answer(text) if text.endswith("assistant\n") else []
        return self._next(cache)

    def extend(self, token_ids, cache) -> np.ndarray:
        logits = []
        for token in token_ids:
            cache.items.append(int(token))
            logits.append(self._next(cache))
        return np.stack(logits)

    def _answer(self, prompt: str) -> list[int]:
        answer = next(a for pattern, a in self.answers.items() if re.search(pattern, prompt))
        if isinstance(answer, BaseException):
            raise answer
        return self.tokenizer.encode(format_answer(answer, self.model.coordinates).text)

    def _next(self, cache) -> np.ndarray:
        position = sum(1 for item in cache.items if not isinstance(item, tuple))
        logits = np.zeros(self.model.vocabulary, np.float32)
        is_end = position >= len(cache.answer)
        logits[self.tokenizer.chat_end if is_end else cache.answer[position]] = LOGIT
        return logits
