"""A backend that runs another one: the base of backends that observe or change single calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, BackendDescription, Cache
from llava_st_ros.records import Prompt


class WrappedBackend:
    """Passes every call to another backend. Other attributes are those of the backend, too.

    Args:
        backend: The backend that runs the network.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

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

    def new_cache(self) -> Cache:
        return self._backend.new_cache()

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        return self._backend.prefill(embeddings, cache)

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        return self._backend.extend(token_ids, cache)
