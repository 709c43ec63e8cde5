"""A camera at one moment, shared by the queries that are evaluated on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, Cache
from llava_st_ros.records import Modality, Prompt
from llava_st_ros.streaming.frame_buffer import FrameBuffer
from llava_st_ros.streaming.window import Window, encode, encode_window


class CameraView:
    """The window and the newest frame of a camera at the time of their first use.

    For any number of queries, frames are encoded, packed, and prefilled with the beginning of the
    prompt only once.

    Args:
        backend: The model.
        buffer: The camera's frames.
        now: Ignore frames stamped later than this (ns).
    """

    def __init__(self, backend: Backend, buffer: FrameBuffer, now: int | None = None) -> None:
        self._backend = backend
        self._buffer = buffer
        self._now = now
        self._windows: dict[Modality, Window] = {}
        self._prefixes: dict[Modality, VisualPrefix] = {}

    def window(
        self, modality: Modality, cancelled: Callable[[], bool] | None = None
    ) -> Window | None:
        """Return the window of F frames, or of the newest frame for an image; None if empty.

        Args:
            modality: Of the query.
            cancelled: Called before each frame of F is encoded; True ends this with None.
        """
        if modality not in self._windows:
            on_image = modality is Modality.IMAGE
            window = self._encode_newest() if on_image else self._encode_window(cancelled)
            if window is None:
                return None
            self._windows[modality] = window
        return self._windows[modality]

    def prefix(self, modality: Modality) -> VisualPrefix:
        """Return the prompt prefix of ``window(modality)``, which must not be None."""
        if modality not in self._prefixes:
            window = self.window(modality)
            assert window is not None
            tokens = (
                self._backend.image_tokens(window.newest.features)
                if modality is Modality.IMAGE
                else self._backend.pack(window.features, window.time_indices)
            )
            self._prefixes[modality] = VisualPrefix(self._backend, tokens)
        return self._prefixes[modality]

    def _encode_window(self, cancelled: Callable[[], bool] | None) -> Window | None:
        return encode_window(self._buffer, self._backend.encode_frame, self._now, cancelled)

    def _encode_newest(self) -> Window | None:
        entry, generation = self._buffer.latest(self._now), self._buffer.generation
        if entry is None:
            return None
        return Window((encode(entry, self._buffer, self._backend.encode_frame),), generation)


class VisualPrefix:
    """The KV cache of a prompt's prefix: everything up to the end of the visual block.

    The visual block precedes the question, so prompts about the same window share this prefix, and
    with causal attention its cache.

    Attributes:
        backend: The model.
        tokens: The backend's visual tokens.
    """

    def __init__(self, backend: Backend, tokens: Any) -> None:
        self.backend = backend
        self.tokens = tokens
        self._prefix: np.ndarray = np.zeros(0, np.int64)
        self._cache: Cache | None = None

    def resume(self, prompt: Prompt) -> tuple[Any, Cache]:
        """Return the embeddings that are not prefilled yet, and the cache of those before them.

        The next call truncates the cache to the prefix, so only one answer can use it at a time.
        """
        embeddings = self.backend.embed(prompt, self.tokens)
        ids = np.asarray(prompt.token_ids)
        if self._cache is None:
            length = self._visual_end(prompt)
            if length == 0:
                return embeddings, self.backend.new_cache()
            cache = self.backend.new_cache()
            self.backend.prefill(embeddings[:length], cache)
            self._prefix, self._cache = ids[:length].copy(), cache  # kept only if complete
        length = len(self._prefix)
        if not np.array_equal(ids[:length], self._prefix):
            return embeddings, self.backend.new_cache()
        self._cache.truncate(length)
        return embeddings[length:], self._cache

    def _visual_end(self, prompt: Prompt) -> int:
        special = self.backend.describe().model.special_tokens
        last = special.im_end if prompt.modality is Modality.IMAGE else special.slow_vid_end
        positions = np.flatnonzero(np.asarray(prompt.token_ids) == last)
        return int(positions[-1]) + 1 if len(positions) else 0
