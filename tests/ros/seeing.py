"""A backend that really looks: it finds the red rectangle in each image and says where it is.

It fills the place of a trained network, so that a stamp or a box that is off on a topic is the
node's fault. Everything else (sampling, prompt, grammar, decoding, parsing) is the product's.
"""

from __future__ import annotations

import threading

import numpy as np

from llava_st_ros.backends.base import BackendDescription
from llava_st_ros.records import Answer, Box, Modality, Task
from llava_st_ros.text.answers import format_answer
from llava_st_ros.text.tokenizer import Tokenizer, train_tokenizer
from support.stream_config import stream_config

# 99 steps of 4 and of 3 pixels: a box on this raster is a whole coordinate token on each side.
WIDTH, HEIGHT = 396, 297
STEP_X, STEP_Y = WIDTH // 99, HEIGHT // 99
SURENESS = 6.0  # a logit among zeros: a probability of about 0.8 in a table of 100 rows


def picture(
    left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> np.ndarray:
    """RGB uint8: a red rectangle on blue, its corners given in raster steps."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = (20, 60, 160)
    image[top * STEP_Y : bottom * STEP_Y, left * STEP_X : right * STEP_X] = (230, 10, 10)
    return image


class _Cache:
    def __init__(self) -> None:
        self.items: list = []
        self.answer: list[int] = []

    @property
    def length(self) -> int:
        return len(self.items)

    def truncate(self, length: int) -> None:
        del self.items[length:]


class SeeingBackend:
    """Features are a frame's box; the answer is written when the whole prompt is in the cache."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._gate: threading.Semaphore | None = None
        self.threads: set[str] = set()  # where it was called
        self.model = stream_config(tokenizer)

    def hold(self, steps: int = 1) -> None:
        """From now on take ``steps`` steps, and for ever over the next."""
        self._gate = threading.Semaphore(steps)

    def step(self) -> None:
        """Take one step more."""
        if self._gate is not None:
            self._gate.release()

    def go_on(self) -> None:
        """Take steps as ever again."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(1_000)

    def describe(self) -> BackendDescription:
        return BackendDescription("seeing", self.model, "cpu", "exact")

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

    def new_cache(self) -> _Cache:
        return _Cache()

    def prefill(self, embeddings, cache) -> np.ndarray:
        cache.items.extend(embeddings)
        seen = [visual for _, visual in cache.items if visual is not None]
        cache.answer = self._answer(seen[-1])
        return self._next(cache)

    def extend(self, token_ids, cache) -> np.ndarray:
        gate = self._gate
        if gate is not None and not gate.acquire(timeout=60):
            raise TimeoutError("nobody let the network go on")
        logits = []
        for token in token_ids:
            cache.items.append(int(token))
            logits.append(self._next(cache))
        return np.stack(logits)

    def _next(self, cache) -> np.ndarray:
        said = sum(1 for item in cache.items if not isinstance(item, tuple))
        logits = np.zeros(self.model.vocabulary, np.float32)
        more = said < len(cache.answer)
        logits[cache.answer[said] if more else self.tokenizer.chat_end] = SURENESS
        return logits

    def _answer(self, boxes: tuple[Box, ...]) -> list[int]:
        if len(boxes) == 1:
            answer = Answer(Task.REC, boxes=((None, boxes[0]),))
        else:
            span = (0, len(boxes) - 1)
            answer = Answer(Task.STVG, span=span, boxes=tuple(enumerate(boxes)))
        return self.tokenizer.encode(format_answer(answer, self.model.coordinates).text)


def load_seeing(settings: object = None) -> tuple[SeeingBackend, Tokenizer]:
    """In the place of ``llava_st_ros.ros.node.load_model``."""
    words = ["the red box in this video: During the span of. Object bounding box: "]
    tokenizer = train_tokenizer(words, 400, 20, 100)
    return SeeingBackend(tokenizer), tokenizer
