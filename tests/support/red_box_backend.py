"""A backend that answers with the red rectangle of each image.

It replaces a trained network by exact detection, so that a wrong stamp or box on a topic is an
error of the node. Sampling, prompt, grammar, decoding and parsing are the product's.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava_st_ros.backends.base import BackendDescription
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from support.answer_cache import AnswerCache
from support.stream_config import stream_config

if TYPE_CHECKING:
    from llava_st_ros.ros.model_loading import LoadedModel

# 99 steps of 4 and of 3 pixels: a box on this raster has integer coordinate tokens.
WIDTH, HEIGHT = 396, 297
STEP_X, STEP_Y = WIDTH // 99, HEIGHT // 99
LOGIT = 6.0  # the others are 0: a probability of about 0.8 among 100 tokens


def red_box_image(
    left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> np.ndarray:
    """Return RGB uint8 [H, W, 3]: a red rectangle on blue, its corners in raster steps."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = (20, 60, 160)
    image[top * STEP_Y : bottom * STEP_Y, left * STEP_X : right * STEP_X] = (230, 10, 10)
    return image


class RedBoxBackend:
    """Features are the box of a frame. The answer is made when the prompt is prefilled.

    Attributes:
        threads: Names of the threads in which frames were encoded.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._gate: threading.Semaphore | None = None
        self.is_blocked = False  # a decoding step waits for ``step`` or ``resume``
        self.threads: set[str] = set()
        self.model = stream_config(tokenizer)

    def hold(self, steps: int = 1) -> None:
        """Allow only ``steps`` more decoding steps; further ones block."""
        self._gate = threading.Semaphore(steps)

    def step(self) -> None:
        """Allow one more decoding step."""
        if self._gate is not None:
            self._gate.release()

    def resume(self) -> None:
        """Allow all decoding steps again."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(1_000)

    def _acquire(self, gate: threading.Semaphore) -> bool:
        if gate.acquire(blocking=False):
            return True
        self.is_blocked = True
        try:
            return gate.acquire(timeout=60)
        finally:
            self.is_blocked = False

    def describe(self) -> BackendDescription:
        return BackendDescription("red box", self.model, "cpu", "exact")

    def encode_frame(self, image: np.ndarray) -> Box:
        self.threads.add(threading.current_thread().name)
        height, width = image.shape[:2]
        red = (image[..., 0] > 128) & (image[..., 1] < 100) & (image[..., 2] < 100)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        if not len(rows):
            return Box(0.0, 0.0, 0.0, 0.0)
        return Box(
            columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
        )

    def pack(self, features, time_indices):
        return tuple(features)

    def image_tokens(self, features):
        return (features,)

    def embed(self, prompt, visual):
        special = self.model.special_tokens
        end = special.im_end if prompt.modality is Modality.IMAGE else special.slow_vid_end
        return [(int(i), visual if int(i) == end else None) for i in prompt.token_ids]

    def new_cache(self) -> AnswerCache:
        return AnswerCache()

    def prefill(self, embeddings, cache) -> np.ndarray:
        cache.items.extend(embeddings)
        seen = [visual for _, visual in cache.items if visual is not None]
        cache.answer = self._answer(seen[-1])
        return self._next(cache)

    def extend(self, token_ids, cache) -> np.ndarray:
        gate = self._gate
        if gate is not None and not self._acquire(gate):
            raise TimeoutError("no decoding step was allowed for 60 s")
        logits = []
        for token in token_ids:
            cache.items.append(int(token))
            logits.append(self._next(cache))
        return np.stack(logits)

    def _next(self, cache) -> np.ndarray:
        position = sum(1 for item in cache.items if not isinstance(item, tuple))
        logits = np.zeros(self.model.vocabulary, np.float32)
        is_end = position >= len(cache.answer)
        logits[self.tokenizer.chat_end if is_end else cache.answer[position]] = LOGIT
        return logits

    def _answer(self, boxes: tuple[Box, ...]) -> list[int]:
        if len(boxes) == 1:
            answer = Answer(Task.REC, boxes=((None, boxes[0]),))
        else:
            span = (0, len(boxes) - 1)
            answer = Answer(Task.STVG, span=span, boxes=tuple(enumerate(boxes)))
        return self.tokenizer.encode(format_answer(answer, self.model.coordinates).text)


def red_box_backend() -> RedBoxBackend:
    texts = ["the red box in this video: During the span of. Object bounding box: "]
    return RedBoxBackend(train_tokenizer(texts, 400, 20, 100))


def load_red_box(parameters: object = None) -> LoadedModel:
    """Replace ``llava_st_ros.ros.model_loading.load_model``."""
    from llava_st_ros.ros.model_loading import LoadedModel

    backend = red_box_backend()
    return LoadedModel(backend, backend.tokenizer, Path("/models/red-box"))
