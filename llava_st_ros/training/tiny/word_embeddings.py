"""Embeddings of words as they occur in questions, to read names from visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class WordEmbeddings(nn.Module):
    """The embeddings of a list of words. A word of several tokens has their mean.

    Args:
        words: The words.
        encode: Returns the token ids of a text.
    """

    ids: Tensor  # int64 [tokens], of all words
    shares: Tensor  # float32 [words, tokens]

    def __init__(self, words: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        tokens = [encode(f" {word}") for word in words]  # preceded by a space, as in a question
        shares = torch.block_diag(*(torch.full((1, len(t)), 1 / len(t)) for t in tokens))
        ids = torch.tensor([token for word in tokens for token in word])
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return one row per word, [words, D], from the text embeddings [V, D]."""
        return self.shares @ embeddings[self.ids]
