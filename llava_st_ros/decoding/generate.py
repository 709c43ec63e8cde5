"""Deterministic, grammar-constrained decoding over any backend.

The loop is independent of the tasks: a grammar determines which tokens are forced and which are
allowed, and each set of allowed tokens selects one of them from the logits (the most probable word,
the median of a coordinate). Forced tokens are not sampled; a run of them is fed to the model in one
call, together with the token selected before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend, Cache
from llava_st_ros.calibration import ConfidenceCalibration
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError
from llava_st_ros.text.grammar import Grammar, Unconstrained
from llava_st_ros.text.token_sets import NoMatchChoice
from llava_st_ros.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """The n generated tokens, without the end token.

    Attributes:
        ids: Token ids.
        logprobs: Log probabilities under the model over its vocabulary; 0 for closing words that
            are forced and therefore not fed to the model.
        coordinate_probabilities: Probabilities of coordinate tokens, normalized over their table;
            NaN for other tokens.
        forced: Whether the grammar forced the token.
        finished: False if the token budget or ``cancelled`` ended the answer early.
        match_probability: Probability in [0, 1] that something matches, normalized over an answer
            and "no match" and calibrated, whichever was selected; None if the grammar does not
            offer this choice.
        no_match: Whether "no match" was selected.
        calibration: The model's calibration of the confidence of an answer that could have been "no
            match"; None if there is none.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    coordinate_probabilities: tuple[float, ...]
    forced: tuple[bool, ...]
    finished: bool
    match_probability: float | None = None
    no_match: bool = False
    calibration: ConfidenceCalibration | None = None

    @property
    def choice_probability(self) -> float | None:
        """Probability of the selected one of "no match" and an answer, normalized over both."""
        probability = self.match_probability
        return 1.0 - probability if probability is not None and self.no_match else probability

    @property
    def confidence(self) -> float:
        """The confidence in [0, 1].

        With ``calibration``: the probability that the answer is right, of ``match_probability`` and
        the mean probability of the selected coordinates. Without: the product of that mean and
        ``choice_probability``. Without selected coordinates: ``choice_probability``, or else the
        mean probability of all tokens.
        """
        selected = [
            p
            for p, forced in zip(self.coordinate_probabilities, self.forced)
            if not forced and p == p
        ]
        if not selected and self.choice_probability is None:
            selected = [float(np.exp(value)) for value in self.logprobs] or [0.0]
        if selected and self.match_probability is not None and self.calibration is not None:
            return self.calibration.probability(self.match_probability, float(np.mean(selected)))
        choice = 1.0 if self.choice_probability is None else self.choice_probability
        return choice * float(np.mean(selected or [1.0]))


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
    """Generate the answer to a prompt.

    Args:
        backend: The model.
        embeddings: The prompt's embeddings [L, D] that are not in the cache yet.
        tokenizer: The model's tokenizer.
        cache: Cache of the prompt's beginning; a new one by default.
        grammar: What is allowed; by default any token until an end token.
        max_new_tokens: The token budget.
        on_token: Called with each id.
        cancelled: Called before each step; True ends the answer.

    Raises:
        BackendError: Logits are not finite or not one vocabulary long, or the prompt leaves no
            position free.
    """
    config = backend.describe().model
    state = (grammar or Unconstrained(tokenizer, config)).start()
    output = _Output(config, on_token)
    cache = backend.new_cache() if cache is None else cache
    logits = _checked(backend.prefill(embeddings, cache), config)
    budget = min(max_new_tokens, _free_positions(cache, backend.describe().max_positions))
    pending: list[int] = []  # generated, but not in the cache yet
    while len(output) < budget and not state.is_complete and not (cancelled and cancelled()):
        run = state.forced[: budget - len(output)]
        state.advance(run)
        if state.is_complete or (run and len(output) + len(run) == budget):
            output.close(run)
            break
        fed = [*pending, *run]
        if fed:
            later = _checked(backend.extend(fed, cache), config)
            logits = later if pending else np.concatenate((logits[-1:], later))
        for number, token in enumerate(run):
            output.add(token, logits[number], forced=True)
        assert state.allowed is not None
        token = state.allowed.select(logits[-1])
        if isinstance(state.allowed, NoMatchChoice):
            output.match_probability = state.allowed.match_probability(logits[-1])
            output.no_match = token == state.allowed.no_match
            output.calibration = state.allowed.calibration.confidence
        state.advance((token,))
        if token in state.end_ids:
            break
        output.add(token, logits[-1], forced=False)
        pending = [token]
    return output.generation(state.is_complete)


class _Output:
    """The tokens generated so far and their probabilities."""

    def __init__(self, config: ModelConfig, on_token: Callable[[int], None] | None) -> None:
        self._config, self._on_token = config, on_token
        self.match_probability: float | None = None
        self.no_match = False
        self.calibration: ConfidenceCalibration | None = None
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._coordinates: list[float] = []
        self._forced: list[bool] = []
        self._tables = tuple(config.coordinates.ids(axis) for axis in Axis)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, token: int, logits: np.ndarray, *, forced: bool) -> None:
        """Append a token and its probabilities under its logits [vocabulary]."""
        coordinate = float("nan")
        for ids in self._tables:
            if token in ids:
                table = logits[ids.start : ids.stop]
                coordinate = float(np.exp(logits[token] - _log_sum_exp(table)))
        self._append(token, float(logits[token] - _log_sum_exp(logits)), coordinate, forced)

    def close(self, run: Sequence[int]) -> None:
        """Append forced tokens that no selection follows, so that the model need not see them."""
        for token in run:
            self._append(token, 0.0, float("nan"), True)

    def generation(self, finished: bool) -> Generation:
        return Generation(
            tuple(self._ids),
            tuple(self._logprobs),
            tuple(self._coordinates),
            tuple(self._forced),
            finished,
            self.match_probability,
            self.no_match,
            self.calibration,
        )

    def _append(self, token: int, logprob: float, coordinate: float, forced: bool) -> None:
        self._ids.append(token)
        self._logprobs.append(logprob)
        self._coordinates.append(coordinate)
        self._forced.append(forced)
        if self._on_token is not None:
            self._on_token(token)


def _free_positions(cache: Cache, positions: int) -> int:
    if cache.length >= positions:
        raise BackendError(
            f"the prompt has {cache.length} positions; expected fewer than the model's {positions}",
            "use fewer frames or a shorter question",
        )
    return positions - cache.length


def _log_sum_exp(logits: np.ndarray) -> float:
    highest = logits.max()
    return float(highest + np.log(np.exp(logits - highest).sum(dtype=np.float64)))


def _checked(logits: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Return finite logits as [K, vocabulary]."""
    rows = np.atleast_2d(np.asarray(logits))
    if rows.ndim != 2 or rows.shape[1] != config.vocabulary:
        raise BackendError(
            f"the logits have shape {rows.shape}; expected {config.vocabulary} values per position",
            "the checkpoint and its config.json do not belong together",
        )
    if not np.isfinite(rows).all():
        raise BackendError(
            "the logits contain NaN or infinite values",
            "the checkpoint is corrupt, or the precision overflows: use float32 or bfloat16",
        )
    return rows
