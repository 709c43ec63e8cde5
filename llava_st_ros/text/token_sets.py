"""Sets of token ids that a grammar allows, and the classes of words in a tokenizer's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from llava_st_ros.calibration import ModalityCalibration
from llava_st_ros.text.tokenizer import Tokenizer

_BRACKETS = frozenset("[]{}")


@dataclass(frozen=True)
class TokenRange:
    """The ids start..stop-1."""

    start: int
    stop: int

    def __contains__(self, token: int) -> bool:
        return self.start <= token < self.stop

    def select(self, logits: np.ndarray) -> int:
        """Return the most probable member, given logits [vocabulary]."""
        return self.start + int(logits[self.start : self.stop].argmax())

    def mask(self, vocabulary: int) -> np.ndarray:
        """Return a bool mask [vocabulary] of the members."""
        mask = np.zeros(vocabulary, dtype=bool)
        mask[self.start : self.stop] = True
        return mask


class CoordinateRange(TokenRange):
    """The rows start..stop-1 of one coordinate table."""

    def select(self, logits: np.ndarray) -> int:
        """Return the median of the distribution over these rows, given logits [vocabulary].

        The labels are two-hot (LLaVA-ST, section 3.2), so the softmax over a table is a
        distribution over a number. Its median minimizes the expected absolute error; the argmax
        ignores the probability of neighboring rows.
        """
        rows = logits[self.start : self.stop].astype(np.float64)
        cumulative = np.exp(rows - rows.max()).cumsum()
        return self.start + int(np.searchsorted(cumulative, cumulative[-1] / 2))


class TokenSet:
    """Any ids, given as a mask over the text vocabulary: bool [V]."""

    def __init__(self, members: np.ndarray) -> None:
        self._members = members
        self._ids = np.flatnonzero(members)

    def __contains__(self, token: int) -> bool:
        return 0 <= token < len(self._members) and bool(self._members[token])

    def select(self, logits: np.ndarray) -> int:
        """Return the most probable member, given logits [vocabulary]."""
        return int(self._ids[logits[self._ids].argmax()])

    def mask(self, vocabulary: int) -> np.ndarray:
        """Return a bool mask [vocabulary] of the members."""
        mask = np.zeros(vocabulary, dtype=bool)
        mask[self._ids] = True
        return mask

    def union(self, *tokens: int) -> TokenSet:
        """Return this set with more ids."""
        members = self._members.copy()
        members[list(tokens)] = True
        return TokenSet(members)


class NoMatchChoice(TokenSet):
    """The first token of "no match" and the first token of an answer.

    Args:
        no_match: Id of the former, also an attribute.
        answer: Id of the latter.
        threshold: Probability from which the former is selected; 1 for never.
        calibration: The model's calibration of both (attribute).
    """

    def __init__(
        self,
        no_match: int,
        answer: int,
        threshold: float,
        calibration: ModalityCalibration,
    ) -> None:
        members = np.zeros(max(no_match, answer) + 1, dtype=bool)
        members[[no_match, answer]] = True
        super().__init__(members)
        self.no_match, self._answer, self._threshold = no_match, answer, threshold
        self.calibration = calibration

    def select(self, logits: np.ndarray) -> int:
        matches_nothing = (
            self._threshold < 1.0 and 1.0 - self.match_probability(logits) >= self._threshold
        )
        return self.no_match if matches_nothing else self._answer

    def match_probability(self, logits: np.ndarray) -> float:
        """Return the probability of an answer, normalized over both ids and calibrated."""
        difference = float(logits[self._answer]) - float(logits[self.no_match])
        return self.calibration.match.probability(difference)


class WordSets:
    """Token sets of a tokenizer's text vocabulary by the characters of the tokens."""

    _cache: ClassVar[WeakKeyDictionary[Tokenizer, WordSets]] = WeakKeyDictionary()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._texts = tokenizer.texts
        self.size = tokenizer.vocab_size

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> WordSets:
        """Return the word sets of a tokenizer; they are built once."""
        if tokenizer not in cls._cache:
            cls._cache[tokenizer] = cls(tokenizer)
        return cls._cache[tokenizer]

    @cached_property
    def empty(self) -> TokenSet:
        return TokenSet(np.zeros(self.size, dtype=bool))

    @cached_property
    def printable(self) -> TokenSet:
        """Everything but special tokens and control characters; line feeds are allowed."""
        return self._matching(_is_printable)

    @cached_property
    def plain(self) -> TokenSet:
        """Printable words without brackets, which delimit coordinates in answers."""
        return self._matching(_is_plain)

    @cached_property
    def alphanumeric(self) -> TokenSet:
        """Plain words that contain a letter or a digit."""
        return self._matching(lambda text: _is_plain(text) and _has_alphanumeric(text))

    @cached_property
    def spaced(self) -> TokenSet:
        """Plain words that start with a space."""
        return self._matching(lambda text: text[0] == " " and _is_plain(text))

    @cached_property
    def box_openers(self) -> TokenSet:
        """Words that end with "[", plain otherwise."""
        return self._matching(lambda text: text[-1] == "[" and _is_plain(text[:-1]))

    @cached_property
    def box_closers(self) -> TokenSet:
        """Words that start with "]", plain otherwise."""
        return self._matching(lambda text: text[0] == "]" and _is_plain(text[1:]))

    @cached_property
    def plain_or_box_openers(self) -> TokenSet:
        return self._matching(lambda text: _is_plain(text.removesuffix("[")))

    def has_alphanumeric(self, token: int) -> bool:
        """Whether a token contains a letter or a digit."""
        text = self._texts[token] if token < self.size else None
        return text is not None and _has_alphanumeric(text)

    def ends_sentence(self, token: int) -> bool:
        """Whether a token ends with a period."""
        text = self._texts[token] if token < self.size else None
        return text is not None and text.endswith(".")

    def _matching(self, predicate: Callable[[str], bool]) -> TokenSet:
        return TokenSet(np.array([bool(t) and predicate(t or "") for t in self._texts], dtype=bool))


def _has_alphanumeric(text: str) -> bool:
    # A non-ASCII letter may be split over several tokens: each of its bytes counts.
    return any(character.isalnum() or character >= "\x80" for character in text)


def _is_printable(text: str) -> bool:
    return all(character >= " " or character == "\n" for character in text) and "\x7f" not in text


def _is_plain(text: str) -> bool:
    return _is_printable(text) and _BRACKETS.isdisjoint(text)
