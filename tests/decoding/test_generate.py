"""Decoding: selection, forced runs, budgets, cancellation and reported probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from llava_st_ros.backends.base import BackendDescription
from llava_st_ros.config import ModelConfig
from llava_st_ros.coordinates import Axis
from llava_st_ros.decoding.generate import Generation, generate
from llava_st_ros.errors import BackendError
from llava_st_ros.records import Task
from llava_st_ros.text.answer_format import NO_MATCH_TASKS, NO_MATCH_TEXT
from llava_st_ros.text.answers import parse
from llava_st_ros.text.grammar import Grammar
from support.text_cases import config, tokenizer


class FakeCache:
    length = 0


class FakeBackend:
    """A model whose logits at a position are a fixed random function of the ids before it."""

    def __init__(self, model: ModelConfig, seed: int = 0, favor: dict[int, float] | None = None):
        self.model, self.seed, self.favor = model, seed, favor or {}
        self.seen: list[int] = []
        self.calls: list[list[int]] = []

    def describe(self) -> BackendDescription:
        return BackendDescription("fake", self.model, "cpu", "float32")

    def new_cache(self) -> FakeCache:
        return FakeCache()

    def prefill(self, embeddings: np.ndarray, cache: FakeCache) -> np.ndarray:
        cache.length += len(embeddings)
        return self.logits()

    def extend(self, token_ids: Sequence[int], cache: FakeCache) -> np.ndarray:
        self.calls.append(list(token_ids))
        rows = []
        for token in token_ids:
            cache.length += 1
            self.seen.append(token)
            rows.append(self.logits())
        return np.stack(rows)

    def logits(self) -> np.ndarray:
        generator = np.random.default_rng((self.seed, *self.seen[-3:], len(self.seen)))
        logits = 3 * generator.normal(size=self.model.vocabulary).astype(np.float32)
        for token, more in self.favor.items():
            logits[token] += more
        return logits


PROMPT = np.zeros((7, 8), np.float32)


def run(backend: FakeBackend, task: Task | None = None, **settings) -> Generation:
    grammar = None if task is None else Grammar(task, tokenizer(), backend.model)
    settings.setdefault("max_new_tokens", 3000)
    return generate(backend, PROMPT, tokenizer(), grammar=grammar, **settings)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("task", Task)
def test_a_constrained_answer_is_complete_for_any_logits(task: Task, seed: int) -> None:
    end = {tokenizer().chat_end: 6.0} if seed % 2 else {}
    generation = run(FakeBackend(config(), seed, end), task)
    answer = parse(generation.ids, task, config(), tokenizer())
    assert generation.finished
    assert answer.problems == ()
    parts = (answer.span, answer.boxes, answer.caption, answer.phrases, answer.segments)
    assert answer.no_match != any(part for part in parts)
    assert not answer.no_match or task in NO_MATCH_TASKS
    assert 0.0 < generation.confidence <= 1.0


@pytest.mark.parametrize("task", Task)
def test_decoding_selects_from_the_allowed_tokens_and_reports_probabilities(task: Task) -> None:
    """Compare with feeding each token alone to a second copy of the model."""
    generation = run(FakeBackend(config(), 5), task)
    again, state = FakeBackend(config(), 5), Grammar(task, tokenizer(), config()).start()
    logits = again.prefill(PROMPT, FakeCache())
    tail = len(generation.ids)
    if Grammar(task, tokenizer(), config()).state_after(generation.ids).is_complete:
        while generation.forced[tail - 1]:
            tail -= 1  # closing words are not fed to the model
    for place, token in enumerate(generation.ids):
        assert generation.forced[place] == bool(state.forced)
        if not state.forced:
            assert token == state.allowed.select(logits)
        if place < tail:
            share = np.exp(logits.astype(np.float64))
            expected = np.log(share[token] / share.sum())
            assert generation.logprobs[place] == pytest.approx(expected, abs=1e-4)
            check_coordinate(generation.coordinate_probabilities[place], token, share)
        else:
            assert generation.logprobs[place] == 0.0
        state.advance((token,))
        logits = again.extend([token], FakeCache())[0]


def check_coordinate(found: float, token: int, share: np.ndarray) -> None:
    geometry = config()
    edges = [geometry.coordinates.offset(axis) for axis in Axis]
    for start, stop in zip(edges, (*edges[1:], geometry.vocabulary)):
        if start <= token < stop:
            assert found == pytest.approx(share[token] / share[start:stop].sum(), abs=1e-4)
    if token < edges[0]:
        assert np.isnan(found)


@pytest.mark.parametrize("more", [-4.0, 4.0])
def test_no_match_and_its_confidence(more: float) -> None:
    first = tokenizer().encode(NO_MATCH_TEXT)[0], tokenizer().encode("It appears at [")[0]
    backend = FakeBackend(config(), 1)
    backend.favor = {first[0]: more - float(np.subtract(*backend.logits()[list(first)]))}
    generation = run(backend, Task.REC)
    sure = np.exp(4) / (1 + np.exp(4))  # their logits differ by 4
    assert generation.choice_probability == pytest.approx(sure, abs=1e-4)
    expected = 1 - sure if more > 0 else sure  # of a match, whichever was selected
    assert generation.match_probability == pytest.approx(expected, abs=1e-4)
    assert generation.no_match == (more > 0)
    answer = parse(generation.ids, Task.REC, config(), tokenizer())
    assert answer.no_match == (more > 0)
    assert len(answer.boxes) == (more < 0)
    if answer.no_match:
        assert tokenizer().decode(generation.ids) == NO_MATCH_TEXT
        assert generation.confidence == pytest.approx(sure, abs=1e-4)
        assert len(backend.calls) == 0  # closing words are not fed to the model
    else:
        boxes = [p for p in generation.coordinate_probabilities if p == p]
        assert generation.confidence == pytest.approx(sure * np.mean(boxes), abs=1e-4)


def always_matching(seed: int) -> FakeBackend:
    """A model that never answers no match."""
    return FakeBackend(config(), seed, {tokenizer().encode(NO_MATCH_TEXT)[0]: -50.0})


def test_a_run_of_forced_tokens_is_fed_in_one_call() -> None:
    backend = always_matching(3)
    generation = run(backend, Task.STVG)
    decoded = [tokenizer().decode(call) for call in backend.calls]
    assert decoded[0] == "During the span of {"
    assert decoded[2].endswith("}. Object bounding box: " + decoded[2][-len("<TEMP-000>: [") :])
    chosen = [i for i, forced in zip(generation.ids, generation.forced) if not forced]
    assert len(backend.calls) == len(chosen) - 1  # the last selection is not fed
    assert [i for call in backend.calls for i in call] == list(generation.ids[:-2])
    assert tokenizer().decode(generation.ids[-1:]) == "]"


def test_forced_tokens_are_written_however_improbable() -> None:
    words = tokenizer().encode("It appears at [")[1:]
    backend = always_matching(1)
    backend.favor |= dict.fromkeys(words, -50.0)
    generation = run(backend, Task.REC)
    assert list(generation.ids[1 : 1 + len(words)]) == words
    assert all(logprob < -20 for logprob in generation.logprobs[1 : 1 + len(words)])
    assert generation.confidence > 1e-6  # of the coordinates, not of the words


def test_unconstrained_decoding_stops_at_each_end_token() -> None:
    model = replace(config(), end_token_ids=(5,))
    for end in (5, tokenizer().chat_end):
        seen: list[int] = []
        generation = run(FakeBackend(model, 2, {end: 8.0}), on_token=seen.append)
        assert generation.finished
        assert end not in generation.ids
        assert seen == list(generation.ids)
        assert not any(generation.forced)


def test_unconstrained_decoding_stops_at_the_token_budget() -> None:
    backend = FakeBackend(config(), 2, {tokenizer().chat_end: -99.0})
    generation = run(backend, max_new_tokens=17)
    assert len(generation.ids) == 17
    assert not generation.finished
    assert len(backend.seen) == 16  # the last token need not be fed


@pytest.mark.parametrize("budget", range(1, 40))
def test_a_constrained_answer_never_exceeds_the_token_budget(budget: int) -> None:
    full = run(always_matching(4), Task.STVG)
    cut = run(always_matching(4), Task.STVG, max_new_tokens=budget)
    assert cut.ids == full.ids[:budget]
    assert cut.finished == (budget >= len(full.ids))
    missing = tokenizer().decode(full.ids[budget:])
    assert bool(parse(cut.ids, Task.STVG, config(), tokenizer()).problems) == (len(missing) > 1)


def test_a_cancelled_answer_keeps_its_tokens() -> None:
    full = run(always_matching(4), Task.STVG)
    asked = iter([False] * 4 + [True] * 99)
    cut = run(always_matching(4), Task.STVG, cancelled=lambda: next(asked))
    assert not cut.finished
    assert 0 < len(cut.ids) < len(full.ids)
    assert cut.ids == full.ids[: len(cut.ids)]
    assert run(FakeBackend(config()), Task.REC, cancelled=lambda: True).ids == ()


def test_every_token_is_reported_in_order() -> None:
    reported: list[int] = []
    assert run(FakeBackend(config(), 6), Task.ELC, on_token=reported.append).ids == tuple(reported)


def test_free_positions_limit_the_answer_and_a_prompt_without_any_is_rejected() -> None:
    small = replace(config(), language=replace(config().language, max_position_embeddings=10))
    assert len(run(FakeBackend(small), Task.STVG).ids) == 3
    full = replace(small, language=replace(small.language, max_position_embeddings=7))
    with pytest.raises(BackendError, match="the prompt has 7 positions"):
        run(FakeBackend(full), Task.STVG)


@pytest.mark.parametrize("task", [None, Task.STVG])
def test_logits_that_are_not_finite_are_an_error(task: Task | None) -> None:
    with pytest.raises(BackendError, match="the logits contain NaN or infinite values"):
        run(FakeBackend(config(), 0, {3: float("nan")}), task)


def test_logits_of_another_vocabulary_are_an_error() -> None:
    backend = FakeBackend(config())
    backend.logits = lambda: np.zeros(11, np.float32)  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="the logits have shape"):
        run(backend)
