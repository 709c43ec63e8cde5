"""The backend protocol: what the rest of the system asks of whatever runs the network.

The torch backend is the reference; the others must agree with it. Arrays that stay inside the
backend (features, visual tokens, embeddings) are opaque to callers; logits are NumPy, so that the
decoding loop needs no tensor library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import BackendError
from llava_st_ros.records import Prompt


@dataclass(frozen=True)
class BackendDescription:
    """Who computes: ``name`` ("torch", ...), the model's geometry, device and precision."""

    name: str
    model: ModelConfig
    device: str
    precision: str


class Cache(Protocol):
    """The KV cache of one conversation."""

    @property
    def length(self) -> int:
        """Positions held."""
        ...

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on (a rejected draft, another question)."""
        ...


class Backend(Protocol):
    """See the contracts in docs/architecture.md."""

    def describe(self) -> BackendDescription: ...

    def encode_frame(self, image: np.ndarray) -> Any:
        """RGB uint8 [H, W, 3] -> features [N, D] after the projector, before LAPE."""
        ...

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        """F features [N, D] and their rows of the temporal table -> the visual tokens of a video.

        LAPE, then the Spatial-Temporal Packer: fast [F * n_fast, D] and slow [F/5 * n_slow, D].
        """
        ...

    def image_tokens(self, features: Any) -> Any:
        """Features [N, D] of one image -> its visual tokens [N, D]: LAPE with T[0], no packer."""
        ...

    def embed(self, prompt: Prompt, visual: Any) -> Any:
        """A prompt and its visual tokens -> embeddings [L, D], coordinate inputs written in."""
        ...

    def new_cache(self) -> Cache: ...

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        """Embeddings [L, D] appended to the cache -> float32 logits [vocabulary] of the last."""
        ...

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        """K token ids appended to the cache -> float32 logits [K, vocabulary]."""
        ...


def check_ids(config: ModelConfig, ids: np.ndarray) -> None:
    """Raise BackendError unless all ids are of the vocabulary."""
    if len(ids) and not (ids.min() >= 0 and ids.max() < config.vocabulary):
        raise BackendError(
            f"token ids {ids.min()} to {ids.max()}; expected ids 0 to {config.vocabulary - 1}",
            "use the tokenizer that belongs to the model",
        )
