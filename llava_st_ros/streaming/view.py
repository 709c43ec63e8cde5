"""One look at a camera, shared by every question that is asked of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, Cache
from llava_st_ros.records import Modality, Prompt
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
        self._windows: dict[Modality, Window] = {}
        self._visuals: dict[Modality, SharedVisual] = {}

    def window(self, modality: Modality) -> Window | None:
        """The frames that a question is about: F of a video, 1 of an image; None without any."""
        if modality not in self._windows:
            encode_frames = {
                Modality.IMAGE: self._encode_newest,
                Modality.VIDEO: self._encode_window,
            }
            window = encode_frames[modality]()
            if window is None:
                return None
            self._windows[modality] = window
        return self._windows[modality]

    def visual(self, modality: Modality) -> SharedVisual:
        """The visual tokens of ``window(modality)``, which must not be None."""
        if modality not in self._visuals:
            window = self.window(modality)
            assert window is not None
            tokens = (
                self._backend.image_tokens(window.newest.features)
                if modality is Modality.IMAGE
                else self._backend.pack(window.features, window.time_indices)
            )
            self._visuals[modality] = SharedVisual(self._backend, tokens)
        return self._visuals[modality]

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

    def begin(self, prompt: Prompt) -> tuple[Any, Cache]:
        """The embeddings that still have to be prefilled, and the cache that holds what precedes.

        The cache serves one conversation at a time: the next call truncates it to the visual block.
        """
        embeddings = self._backend.embed(prompt, self._tokens)
        ids = np.asarray(prompt.token_ids)
        if self._cache is None:
            length = self._visual_end(prompt)
            if length == 0:
                return embeddings, self._backend.new_cache()
            self._prefix, self._cache = ids[:length].copy(), self._backend.new_cache()
            self._backend.prefill(embeddings[:length], self._cache)
        length = len(self._prefix)
        if not np.array_equal(ids[:length], self._prefix):
            return embeddings, self._backend.new_cache()
        self._cache.truncate(length)
        return embeddings[length:], self._cache

    def _visual_end(self, prompt: Prompt) -> int:
        special = self._backend.describe().model.special_tokens
        last = special.im_end if prompt.modality is Modality.IMAGE else special.slow_vid_end
        places = np.flatnonzero(np.asarray(prompt.token_ids) == last)
        return int(places[-1]) + 1 if len(places) else 0
