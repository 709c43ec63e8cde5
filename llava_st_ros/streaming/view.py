"""One look at a camera, shared by every question that is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, BackendDescription, Cache
from llava_st_ros.records import Prompt
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.streaming.window import Window, encode, encode_window


class CameraView:
    """A camera as it was when the view was first used: its window, or its newest frame alone.

    Frames are encoded, the window packed and the part of the prompt up to the end of the visual
    block run through the decoder at most once each, however many questions follow.
    """

    def __init__(self, backend: Backend, buffer: FrameBuffer, now: int | None = None) -> None:
        self._backend = backend
        self._buffer = buffer
        self._now = now
        self._windows: dict[bool, Window] = {}
        self._visuals: dict[bool, SharedVisual] = {}

    def window(self, on_image: bool) -> Window | None:
        """The frames that a question is about: F of a video, 1 of an image; None without any."""
        if on_image not in self._windows:
            window = self._encode_newest() if on_image else self._encode_window()
            if window is None:
                return None
            self._windows[on_image] = window
        return self._windows[on_image]

    def visual(self, on_image: bool) -> SharedVisual:
        """The visual tokens of ``window(on_image)``, which must not be None."""
        if on_image not in self._visuals:
            window = self.window(on_image)
            assert window is not None
            tokens = (
                self._backend.image_tokens(window.newest.features)
                if on_image
                else self._backend.pack(window.features, window.time_indices)
            )
            self._visuals[on_image] = SharedVisual(self._backend, tokens)
        return self._visuals[on_image]

    def _encode_window(self) -> Window | None:
        return encode_window(self._buffer, self._backend.encode_frame, self._now)

    def _encode_newest(self) -> Window | None:
        entry, generation = self._buffer.latest(self._now), self._buffer.generation
        if entry is None:
            return None
        return Window((encode(entry, self._buffer, self._backend.encode_frame),), generation)


class SharedVisual:
    """Visual tokens and the KV cache of the prompt up to their end.

    The visual block comes before the question, so that the prompts of one window begin alike and
    causal attention lets them share the cache of that beginning.
    """

    def __init__(self, backend: Backend, tokens: Any) -> None:
        self._backend = backend
        self._tokens = tokens
        self._prefix: np.ndarray = np.zeros(0, np.int64)
        self._cache: Cache | None = None

    def begin(self, prompt: Prompt) -> tuple[Backend, Any]:
        """A backend whose new cache already holds the visual block, and the embeddings to follow.

        Only one conversation at a time: the next ``begin`` takes the cache back.
        """
        embeddings = self._backend.embed(prompt, self._tokens)
        ids = np.asarray(prompt.token_ids)
        if self._cache is None:
            length = self._visual_end(prompt)
            if length == 0:
                return self._backend, embeddings
            self._prefix, self._cache = ids[:length].copy(), self._backend.new_cache()
            self._backend.prefill(embeddings[:length], self._cache)
        length = len(self._prefix)
        if not np.array_equal(ids[:length], self._prefix):
            return self._backend, embeddings
        self._cache.truncate(length)
        return _Continued(self._backend, self._cache), embeddings[length:]

    def _visual_end(self, prompt: Prompt) -> int:
        special = self._backend.describe().model.special_tokens
        last = special.im_end if prompt.on_image else special.slow_vid_end
        places = np.flatnonzero(np.asarray(prompt.token_ids) == last)
        return int(places[-1]) + 1 if len(places) else 0


class _Continued:
    """A backend whose next new cache is one that holds the beginning of a conversation."""

    def __init__(self, backend: Backend, cache: Cache) -> None:
        self._backend = backend
        self._cache: Cache | None = cache

    def new_cache(self) -> Cache:
        cache, self._cache = self._cache, None
        if cache is None:
            raise RuntimeError("a continued conversation has one cache only")
        return cache

    def describe(self) -> BackendDescription:
        return self._backend.describe()

    def encode_frame(self, image: np.ndarray) -> Any:
        return self._backend.encode_frame(image)

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        return self._backend.pack(features, time_indices)

    def image_tokens(self, features: Any) -> Any:
        return self._backend.image_tokens(features)

    def embed(self, prompt: Prompt, visual: Any) -> Any:
        return self._backend.embed(prompt, visual)

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        return self._backend.prefill(embeddings, cache)

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        return self._backend.extend(token_ids, cache)
