"""Sets of token ids that may come next, and what kinds of words a vocabulary has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from llava_st_ros.text.tokenizer import Tokenizer

_BRACKETS = frozenset("[]{}")


@dataclass(frozen=True)
class IdRange:
    """The ids start..stop-1."""

    start: int
    stop: int

    def __contains__(self, token: int) -> bool:
        return self.start <= token < self.stop

    def best(self, logits: np.ndarray) -> int:
        """The member with the highest of the logits [vocabulary]."""
        return self.start + int(logits[self.start : self.stop].argmax())

    def mask(self, vocabulary: int) -> np.ndarray:
        """bool [vocabulary], True on members."""
        mask = np.zeros(vocabulary, dtype=bool)
        mask[self.start : self.stop] = True
        return mask


class Coordinates(IdRange):
    """The rows start..stop-1 of one coordinate table."""

    def best(self, logits: np.ndarray) -> int:
        """The median of the distribution over these rows, of logits [vocabulary].

        Two-hot labels (paper, section 3.2) make the softmax over a table a belief about a number,
        and a number's median is its guess of least expected error. The likeliest row alone would
        be the tip of the sharpest hill, whatever lies beside it.
        """
        rows = logits[self.start : self.stop].astype(np.float64)
        below = np.exp(rows - rows.max()).cumsum()
        return self.start + int(np.searchsorted(below, below[-1] / 2))


class IdSet:
    """Any ids, as a mask over the text vocabulary: bool [V]."""

    def __init__(self, members: np.ndarray) -> None:
        self._members = members
        self._ids = np.flatnonzero(members)

    def __contains__(self, token: int) -> bool:
        return 0 <= token < len(self._members) and bool(self._members[token])

    def best(self, logits: np.ndarray) -> int:
        """The member with the highest of the logits [vocabulary]."""
        return int(self._ids[logits[self._ids].argmax()])

    def mask(self, vocabulary: int) -> np.ndarray:
        """bool [vocabulary], True on members."""
        mask = np.zeros(vocabulary, dtype=bool)
        mask[self._ids] = True
        return mask

    def plus(self, *tokens: int) -> IdSet:
        """The same set with these ids."""
        members = self._members.copy()
        members[list(tokens)] = True
        return IdSet(members)


class NoMatchChoice(IdSet):
    """The id that says that nothing matches, and the one that begins an answer.

    The first is taken where its probability against the other is ``at`` or more; 1: never.
    """

    def __init__(self, nothing: int, opening: int, at: float) -> None:
        members = np.zeros(max(nothing, opening) + 1, dtype=bool)
        members[[nothing, opening]] = True
        super().__init__(members)
        self._nothing, self._opening, self._at = nothing, opening, at

    def best(self, logits: np.ndarray) -> int:
        refused = self._at < 1.0 and self.probability(self._nothing, logits) >= self._at
        return self._nothing if refused else self._opening

    def probability(self, token: int, logits: np.ndarray) -> float:
        """Of one of the two against the other, given logits [vocabulary]."""
        pair = np.exp(logits[self._ids] - logits[self._ids].max())
        return float(pair[self._ids == token].sum() / pair.sum())


class Words:
    """Which ids of a tokenizer's text vocabulary are what kind of words; made once for each."""

    _made: ClassVar[WeakKeyDictionary[Tokenizer, Words]] = WeakKeyDictionary()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._texts = tokenizer.texts
        self.size = tokenizer.vocab_size

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words:
        if tokenizer not in cls._made:
            cls._made[tokenizer] = cls(tokenizer)
        return cls._made[tokenizer]

    @cached_property
    def any(self) -> IdSet:
        """All words: no special tokens, no control characters but line ends."""
        return self._where(_readable)

    @cached_property
    def plain(self) -> IdSet:
        """Words without brackets, which in answers belong to places and times."""
        return self._where(_plain)

    @cached_property
    def none(self) -> IdSet:
        return IdSet(np.zeros(self.size, dtype=bool))

    @cached_property
    def saying(self) -> IdSet:
        """Plain words with a letter or a digit."""
        return self._where(lambda text: _plain(text) and _says_something(text))

    @cached_property
    def spaced(self) -> IdSet:
        """Plain words that begin with a space."""
        return self._where(lambda text: text[0] == " " and _plain(text))

    @cached_property
    def opening(self) -> IdSet:
        """Words that end by opening a box."""
        return self._where(lambda text: text[-1] == "[" and _plain(text[:-1]))

    @cached_property
    def closing(self) -> IdSet:
        """Words that begin by closing a box."""
        return self._where(lambda text: text[0] == "]" and _plain(text[1:]))

    @cached_property
    def plain_or_opening(self) -> IdSet:
        return self._where(lambda text: _plain(text.removesuffix("[")))

    def says_something(self, token: int) -> bool:
        """True where the word holds a letter or a digit."""
        text = self._texts[token] if token < self.size else None
        return text is not None and _says_something(text)

    def ends_sentence(self, token: int) -> bool:
        text = self._texts[token] if token < self.size else None
        return text is not None and text.endswith(".")

    def _where(self, holds: Callable[[str], bool]) -> IdSet:
        return IdSet(np.array([bool(t) and holds(t or "") for t in self._texts], dtype=bool))


def _says_something(text: str) -> bool:
    """Letters beyond ASCII may come in several tokens, so that each of their bytes counts."""
    return any(character.isalnum() or character >= "\x80" for character in text)


def _readable(text: str) -> bool:
    return all(character >= " " or character == "\n" for character in text) and "\x7f" not in text


def _plain(text: str) -> bool:
    return _readable(text) and _BRACKETS.isdisjoint(text)
