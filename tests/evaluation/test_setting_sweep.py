"""A sweep over remembered answers gives what the model gives at each threshold."""

from __future__ import annotations

import dataclasses
import doctest
from pathlib import Path

import pytest

from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import BackendDescription
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.calibration import (
    Calibration,
    MatchCalibration,
    ModalityCalibration,
    QueryCalibration,
)
from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation import setting_sweep
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag
from llava_st_ros.evaluation.match_samples import STREAMS, clip_samples, stream_samples
from llava_st_ros.evaluation.remembered_answers import RememberingRunner
from llava_st_ros.evaluation.setting_sweep import Variation, combinations, sweep_bag
from llava_st_ros.evaluation.simulated_streams import StreamSplit, record_streams
from llava_st_ros.query_runner import QueryRunner
from llava_st_ros.records import Grounding, Modality
from llava_st_ros.text.answer_format import NO_MATCH_TEXT

pytestmark = pytest.mark.renderer


class Unsure(WrappedBackend):
    """A model whose P(match) is about one half; it counts the prompts and frames it has seen."""

    prefills = frames = 0

    def describe(self) -> BackendDescription:
        found = self._backend.describe()
        unsure = ModalityCalibration(MatchCalibration(0.002, -1.0))
        standing = QueryCalibration(unsure, unsure)
        model = dataclasses.replace(found.model, calibration=Calibration(standing))
        return dataclasses.replace(found, model=model)

    def encode_frame(self, image):
        self.frames += 1
        return self._backend.encode_frame(image)

    def prefill(self, embeddings, cache):
        self.prefills += 1
        return self._backend.prefill(embeddings, cache)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> BagJob:
    pytest.importorskip("mujoco", reason="the simulator needs mujoco")
    split = StreamSplit("test", (12.0, 12.0), queries=3, fps=5.0, size=48)
    store: Path = tmp_path_factory.mktemp("streams")
    (bag,) = record_streams(split, range(1), store)
    config = GrounderConfig(stream=StreamConfig(window_seconds=4.0))
    return BagJob("stream", bag, annotation_path(bag), config=config, period=3.0)


@pytest.fixture(scope="module")
def model(random_checkpoint):
    backend, tokenizer = load_backend(random_checkpoint)
    return Unsure(backend), tokenizer


def test_a_sweep_gives_what_the_model_gives_at_each_threshold(job, model) -> None:
    backend, tokenizer = model
    answers: dict = {}
    runner = RememberingRunner(backend, tokenizer, job.config, answers)
    evaluate_bag(job, backend, tokenizer, runner=runner)
    no_match = sorted(1.0 - answer.match_probability for answer in answers.values())
    assert len(set(no_match)) > 3
    middle = no_match[len(no_match) // 2]  # some answers are "no match" at it and some are not

    backend.prefills = backend.frames = 0
    pairs = ((middle, 1.0), (middle, 0.0), (1.0, 0.5), (0.0, 0.5))
    configs = [
        dataclasses.replace(job.config, no_match_threshold=value, evidence_floor=floor)
        for value, floor in pairs
    ]
    swept = sweep_bag(job, backend, tokenizer, configs)
    once, frames = backend.prefills, backend.frames
    no_match_answers = []
    for config, cases in zip(configs, swept, strict=True):
        alone = evaluate_bag(dataclasses.replace(job, config=config), backend, tokenizer)
        no_match_answers.append(sum(NO_MATCH_TEXT in line for line in alone.ledger))
        for found, expected in zip(cases, alone.cases, strict=True):
            assert found.values == expected.values
            assert found.counts == expected.counts
            assert found.samples == expected.samples
            assert found.predicted == expected.predicted
    assert (backend.prefills, backend.frames) == (once * 5, frames * 5)
    assert 0 < no_match_answers[0] < len(answers)


def test_remembered_answers_have_the_candidates_that_the_model_decodes(job, model) -> None:
    backend, tokenizer = model

    def answered(runner_class, floor: float, *remembered) -> list[Grounding]:
        config = dataclasses.replace(job.config, no_match_threshold=0.0, evidence_floor=floor)
        runner = runner_class(backend, tokenizer, config, *remembered)
        found, run = [], runner.run

        def recorded(*args, **kwargs):
            found.append(run(*args, **kwargs))
            return found[-1]

        runner.run = recorded
        evaluate_bag(dataclasses.replace(job, config=config), backend, tokenizer, runner=runner)
        return found

    answers: dict = {}
    found = answered(RememberingRunner, 0.0, answers)
    assert all(answer.answer.no_match and answer.candidate is not None for answer in found)
    middle = sorted(answer.match_probability for answer in found)[len(found) // 2]
    decoded = []
    for floor in (0.0, middle, 1.0):
        remembered = answered(RememberingRunner, floor, answers)
        alone = answered(QueryRunner, floor)
        assert [each.candidate for each in remembered] == [each.candidate for each in alone]
        decoded.append(sum(each.candidate is not None for each in remembered))
    assert len(found) == decoded[0] > decoded[1] > decoded[2] == 0


def test_docstring_examples() -> None:
    results = doctest.testmod(setting_sweep)
    assert results.attempted and not results.failed


def test_a_variation_names_a_setting_and_its_values() -> None:
    found = Variation.parse("no_match_threshold=0.5,1,0.5")
    assert found == Variation("no_match_threshold", (0.5, 1))
    switch = Variation.parse("provisional_events=true,false")
    assert combinations([found, switch]) == [
        {"no_match_threshold": value, "provisional_events": shown}
        for value in (0.5, 1)
        for shown in (True, False)
    ]
    for text, problem in (
        ("no_match=0.5", "the settings are no_match_threshold"),
        ("no_match_threshold", "not a setting with values"),
        ("no_match_threshold=", "not a setting with values"),
        ("no_match_threshold=0.5,", "no number"),
        ("no_match_threshold=true", "expected a number"),
        ("max_new_tokens=5", "the settings are"),
        ("confirmations=1.5", "expected an integer"),
        ("provisional_events=1", "expected true or false"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Variation.parse(text)
    with pytest.raises(ConfigError, match="varied twice"):
        combinations([found, found])


def test_samples_of_a_stream_are_the_models_own_probabilities(job, model) -> None:
    backend, tokenizer = model
    samples = stream_samples(backend, tokenizer, job.bag, job.config, "s")
    assert {sample.origin for sample in samples} == {STREAMS}
    # Without the calibration the random model is sure that something matches.
    assert all(sample.log_odds > 20 and 0 < sample.coordinates <= 1 for sample in samples)
    assert {sample.modality for sample in samples} <= {Modality.VIDEO, Modality.IMAGE}
    assert not all(sample.matches for sample in samples)
    assert not any(sample.is_right and not sample.matches for sample in samples)


def test_samples_of_a_clip_have_a_question_of_each_category(model) -> None:
    backend, tokenizer = model
    (samples,) = clip_samples(backend, tokenizer, "test", range(1))
    assert len(samples) == 5
    assert [sample.matches for sample in samples] == [True] * 4 + [False]
    assert {sample.source for sample in samples} == {"test clip 0"}
    assert all(sample.log_odds > 20 for sample in samples)
