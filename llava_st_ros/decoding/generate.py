"""Decoding without chance, token by token, over any backend.

The loop knows nothing of tasks: a grammar tells it which tokens may come and which must, and of
those that may the one to take: the likeliest word, the median of a coordinate. Tokens that must
come are never sampled; a run of them goes through the network together with the token chosen before
it, in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, Cache
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError
from llava_st_ros.text.choices import NoMatchChoice
from llava_st_ros.text.grammar import Grammar, Unconstrained
from llava_st_ros.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """n tokens that the model wrote, without the end token.

    ``logprobs`` are the model's own, over its whole vocabulary; of closing words that were forced
    and not put to the model any more, 0. ``coordinate_probabilities`` are the probabilities of
    coordinate tokens among the rows of their table, NaN for other tokens. ``forced`` marks tokens
    that the grammar left no choice about. ``decided`` is the probability with which the model
    chose to answer, or to say that nothing matches, against the other; None where its grammar
    leaves no such choice. ``finished`` is False where the token budget or
    ``cancelled`` cut the answer short.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    coordinate_probabilities: tuple[float, ...]
    forced: tuple[bool, ...]
    finished: bool
    decided: float | None = None

    @property
    def confidence(self) -> float:
        """How sure the model is, in [0, 1].

        Mean probability of the chosen coordinates, times ``decided``. Of an answer without chosen
        coordinates ``decided``, or else the mean over all tokens.
        """
        chosen = [
            p
            for p, forced in zip(self.coordinate_probabilities, self.forced)
            if not forced and p == p
        ]
        if not chosen and self.decided is None:
            chosen = [float(np.exp(value)) for value in self.logprobs] or [0.0]
        decided = 1.0 if self.decided is None else self.decided
        return decided * float(np.mean(chosen or [1.0]))


def generate(
    backend: Backend,
    embeddings: Any,
    tokenizer: Tokenizer,
    *,
    cache: Cache | None = None,
    grammar: Grammar | Unconstrained | None = None,
    max_new_tokens: int,
    on_token: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generation:
    """Write an answer to the prompt's ``embeddings`` [L, D] in a new cache.

    At each step the best token that ``grammar`` allows is taken (None: the likeliest of all, up to
    an end token). ``on_token`` is called with each id; ``cancelled`` is asked before each step.
    Raises BackendError for logits that are not finite or not a vocabulary long, and for a prompt
    that leaves no room in the model's positions.
    """
    config = backend.describe().model
    walk = (grammar or Unconstrained(tokenizer, config)).begin()
    writing = _Writing(config, on_token)
    cache = backend.new_cache() if cache is None else cache
    rows = _checked(backend.prefill(embeddings, cache), config)
    room = config.language.max_position_embeddings - cache.length
    if room < 1:
        raise BackendError(
            f"a prompt of {cache.length} positions"
            f"; expected fewer than {config.language.max_position_embeddings}, the model's",
            "use fewer frames or a shorter question",
        )
    budget = min(max_new_tokens, room)
    unfed: list[int] = []  # written, but not yet in the cache
    while len(writing) < budget and not walk.done and not (cancelled and cancelled()):
        run = walk.forced[: budget - len(writing)]
        walk.advance(run)
        if walk.done or (run and len(writing) + len(run) == budget):
            writing.close(run)
            break
        fed = [*unfed, *run]
        if fed:
            later = _checked(backend.extend(fed, cache), config)
            rows = later if unfed else np.concatenate((rows[-1:], later))
        for number, token in enumerate(run):
            writing.add(token, rows[number], forced=True)
        assert walk.allowed is not None
        token = walk.allowed.best(rows[-1])
        if isinstance(walk.allowed, NoMatchChoice):
            writing.decided = walk.allowed.probability(token, rows[-1])
        walk.advance((token,))
        if token in walk.ends:
            break
        writing.add(token, rows[-1], forced=False)
        unfed = [token]
    return writing.generation(walk.done)


class _Writing:
    """The tokens so far and their probabilities."""

    def __init__(self, config: ModelConfig, on_token: Callable[[int], None] | None) -> None:
        self._config, self._on_token = config, on_token
        self.decided: float | None = None
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._coordinates: list[float] = []
        self._forced: list[bool] = []
        self._tables = tuple(config.coordinates.ids(axis) for axis in Axis)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, token: int, logits: np.ndarray, *, forced: bool) -> None:
        """A token and the logits [vocabulary] that it was taken from."""
        coordinate = float("nan")
        for ids in self._tables:
            if token in ids:
                table = logits[ids.start : ids.stop]
                coordinate = float(np.exp(logits[token] - _log_sum_exp(table)))
        self._append(token, float(logits[token] - _log_sum_exp(logits)), coordinate, forced)

    def close(self, run: Sequence[int]) -> None:
        """Forced tokens behind which nothing is chosen: the network need not see them."""
        for token in run:
            self._append(token, 0.0, float("nan"), True)

    def generation(self, finished: bool) -> Generation:
        return Generation(
            tuple(self._ids),
            tuple(self._logprobs),
            tuple(self._coordinates),
            tuple(self._forced),
            finished,
            self.decided,
        )

    def _append(self, token: int, logprob: float, coordinate: float, forced: bool) -> None:
        self._ids.append(token)
        self._logprobs.append(logprob)
        self._coordinates.append(coordinate)
        self._forced.append(forced)
        if self._on_token is not None:
            self._on_token(token)


def _log_sum_exp(logits: np.ndarray) -> float:
    highest = logits.max()
    return float(highest + np.log(np.exp(logits - highest).sum(dtype=np.float64)))


def _checked(logits: np.ndarray, config: ModelConfig) -> np.ndarray:
    """[K, vocabulary], finite."""
    rows = np.atleast_2d(np.asarray(logits))
    finite = bool(np.isfinite(rows).all())
    if rows.ndim != 2 or rows.shape[1] != config.vocabulary or not finite:
        raise BackendError(
            (f"logits of shape {rows.shape}" + ("" if finite else " that are not all finite"))
            + f"; expected finite logits, {config.vocabulary} a position",
            "check the checkpoint and the backend's precision",
        )
    return rows
