"""The KV cache of backends that know their answers."""

from __future__ import annotations

from typing import Any


class AnswerCache:
    """Holds the items that were fed, and the tokens that the backend will answer."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.answer: list[int] = []

    @property
    def length(self) -> int:
        return len(self.items)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= len(self.items)
        del self.items[length:]
