"""Words as a question holds them, to ask visual tokens for what they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class WordEmbeddings(nn.Module):
    """The embeddings of some words; a word of several pieces is the mean of them."""

    def __init__(self, words: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        pieces = [encode(f" {word}") for word in words]
        shares = torch.block_diag(*(torch.full((1, len(p)), 1 / len(p)) for p in pieces))
        ids = torch.tensor([piece for word in pieces for piece in word])
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Text embeddings [V, D] -> one row a word [words, D]."""
        return self.shares @ embeddings[self.ids]
