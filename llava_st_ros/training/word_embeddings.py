"""Words as a question holds them, to ask visual tokens for what they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class WordEmbeddings:
    """The embeddings of some words; a word of several pieces is the mean of them."""

    def __init__(self, words: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        self._ids = [torch.tensor(encode(f" {word}")) for word in words]

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Text embeddings [V, D] -> one row a word [words, D]."""
        return torch.stack([embeddings[ids].mean(0) for ids in self._ids])
