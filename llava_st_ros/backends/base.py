"""The backend protocol: what a runtime of the network offers to the rest of the system.

The torch backend is the reference; all others must agree with it. Arrays that stay inside a backend
(features, visual tokens, embeddings) are opaque to callers. Logits are NumPy arrays, so that the
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
    """What a backend runs, and where.

    Attributes:
        name: The backend, e.g. "torch".
        model: The model's geometry.
        device: E.g. "cpu" or "cuda:0".
        precision: E.g. "float32".
        positions: The most positions that a cache can hold, if that is fewer than the model has.
    """

    name: str
    model: ModelConfig
    device: str
    precision: str
    positions: int | None = None

    @property
    def max_positions(self) -> int:
        """The most positions of a prompt and its answer together."""
        limit = self.model.language.max_position_embeddings
        return limit if self.positions is None else min(self.positions, limit)


class Cache(Protocol):
    """The KV cache of one conversation."""

    @property
    def length(self) -> int:
        """Number of cached positions."""
        ...

    def truncate(self, length: int) -> None:
        """Drop every position from ``length`` on, e.g. a rejected draft or another question."""
        ...


class Backend(Protocol):
    """Runs the network. docs/architecture.md states the contracts."""

    def describe(self) -> BackendDescription: ...

    def encode_frame(self, image: np.ndarray) -> Any:
        """Encode a frame: RGB uint8 [H, W, 3] -> features [N, D], after the projector, pre-LAPE."""
        ...

    def pack(self, features: Sequence[Any], time_indices: Sequence[int]) -> Any:
        """Add LAPE to a window and run the Spatial-Temporal Packer.

        Args:
            features: Features [N, D] of F frames.
            time_indices: Each frame's row of the temporal table.

        Returns:
            The video's visual tokens: fast [F * n_fast, D] and slow [F/5 * n_slow, D].
        """
        ...

    def image_tokens(self, features: Any) -> Any:
        """Add LAPE with T[0] to one image's features [N, D] -> its visual tokens [N, D]."""
        ...

    def embed(self, prompt: Prompt, visual: Any) -> Any:
        """Embed a prompt, its visual tokens and coordinate inputs -> embeddings [L, D]."""
        ...

    def new_cache(self) -> Cache: ...

    def prefill(self, embeddings: Any, cache: Cache) -> np.ndarray:
        """Append embeddings [L, D] to the cache -> float32 logits [vocabulary] of the last one."""
        ...

    def extend(self, token_ids: Sequence[int], cache: Cache) -> np.ndarray:
        """Append K token ids to the cache -> float32 logits [K, vocabulary]."""
        ...


def check_ids(config: ModelConfig, ids: np.ndarray) -> None:
    """Raise BackendError unless every id is in the vocabulary."""
    if len(ids) and not (ids.min() >= 0 and ids.max() < config.vocabulary):
        raise BackendError(
            f"token ids are {ids.min()} to {ids.max()}; expected 0 to {config.vocabulary - 1}",
            "use the tokenizer that belongs to the model",
        )
