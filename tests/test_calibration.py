"""Corrected probabilities: worked values, and their way through config.json and decoding."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros import calibration
from llava_st_ros.calibration import (
    Calibration,
    ConfidenceCalibration,
    MatchCalibration,
    ModalityCalibration,
    QueryCalibration,
    log_odds,
    sigmoid,
)
from llava_st_ros.checkpoint_config import read_config, write_config
from llava_st_ros.decoding.generate import Generation
from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.records import Task
from llava_st_ros.text.grammar import Grammar
from llava_st_ros.text.token_sets import NoMatchChoice
from support.text_cases import config, tokenizer

VIDEO = ModalityCalibration(MatchCalibration(2.0, math.log(3)), ConfidenceCalibration(1.0, 2.0, 3))
IMAGE = ModalityCalibration(MatchCalibration(0.5, -1.0))
FITTED = Calibration(QueryCalibration(VIDEO, IMAGE), QueryCalibration(IMAGE))


def test_docstring_examples() -> None:
    results = doctest.testmod(calibration)
    assert results.attempted and not results.failed


@given(st.floats(1e-9, 1 - 1e-9))
def test_log_odds_are_the_inverse_of_the_sigmoid(probability: float) -> None:
    assert sigmoid(log_odds(probability)) == pytest.approx(probability, rel=1e-9)


def test_a_match_and_a_confidence_worked_out() -> None:
    # Log odds of log 2: twice that and log 3 are log 12.
    assert VIDEO.match.probability(math.log(2)) == pytest.approx(12 / 13)
    assert VIDEO.confidence is not None
    # Odds of 1 and 2: e * 1**2 * 2**3.
    assert VIDEO.confidence.probability(0.5, 2 / 3) == pytest.approx(8 * math.e / (1 + 8 * math.e))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e7, True, "1"])
def test_values_that_are_no_numbers_are_rejected(value) -> None:
    with pytest.raises(ConfigError, match=r"match\.offset"):
        MatchCalibration(1.0, value)
    with pytest.raises(ConfigError, match=r"confidence\.coordinates"):
        ConfidenceCalibration(0.0, 1.0, value)


def test_a_scale_that_reverses_the_order_is_rejected() -> None:
    for scale in (0, -1.0):
        with pytest.raises(ConfigError, match="more than 0"):
            MatchCalibration(scale)


def test_config_json_has_the_calibration_only_if_there_is_one() -> None:
    plain = config()
    assert "calibration" not in write_config(plain)["llava_st"]
    fitted = replace(plain, calibration=FITTED)
    values = json.loads(json.dumps(write_config(fitted)))
    assert values["llava_st"]["calibration"]["standing"]["image"]["confidence"] is None
    assert read_config(values, {}) == fitted
    values["llava_st"]["calibration"] = {"one_shot": {"image": {"match": {"scale": 2}}}}
    image = QueryCalibration(image=ModalityCalibration(MatchCalibration(2.0)))
    assert read_config(values, {}).calibration == Calibration(one_shot=image)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ([], "calibration is"),
        ({"standing": {"video": {"scale": 1}}}, "no setting 'scale'"),
        ({"standing": {"video": {"match": {"scale": "1"}}}}, "scale"),
        ({"standing": {"video": {"match": {"scale": -1}}}}, "more than 0"),
        ({"standing": {"video": {"confidence": {"offset": 0}}}}, "lacks match, coordinates"),
        ({"standing": {"video": {"match": {"offset": math.nan}}}}, "offset"),
    ],
)
def test_a_wrong_section_is_an_error_that_names_it(section, problem: str) -> None:
    values = write_config(config())
    values["llava_st"]["calibration"] = section
    with pytest.raises((CheckpointError, ConfigError), match=problem):
        read_config(values, {})


def test_the_choice_of_no_match_follows_the_corrected_probability() -> None:
    logits = np.zeros(10, np.float32)
    logits[7] = math.log(2)  # P(match) is 2/3, and 12/13 when corrected
    plain = ModalityCalibration()
    for threshold, correction, expected in (
        (0.3, plain, 4),
        (0.34, plain, 7),
        (0.07, VIDEO, 4),
        (0.08, VIDEO, 7),
        (1.0, VIDEO, 7),
    ):
        choice = NoMatchChoice(4, 7, threshold, correction)
        assert choice.select(logits) == expected, (threshold, correction)
    assert choice.match_probability(logits) == pytest.approx(12 / 13)


def test_standing_and_one_shot_queries_have_calibrations_of_their_own() -> None:
    model = replace(config(), calibration=FITTED)
    for task, chosen, expected in (
        (Task.STVG, FITTED.standing, VIDEO),
        (Task.REC, FITTED.standing, IMAGE),
        (Task.STVG, None, IMAGE),  # as for a one-shot query
        (Task.REC, None, ModalityCalibration()),
    ):
        state = Grammar(task, tokenizer(), model, calibration=chosen).start()
        assert isinstance(state.allowed, NoMatchChoice)
        assert state.allowed.calibration == expected


def test_the_confidence_of_an_answer_is_corrected_and_that_of_no_match_is_not() -> None:
    nan = math.nan
    answer = Generation((1, 2), (0.0, 0.0), (nan, 2 / 3), (False, False), True, 0.5)
    assert answer.confidence == pytest.approx(1 / 3)
    corrected = replace(answer, calibration=VIDEO.confidence)
    assert corrected.confidence == pytest.approx(8 * math.e / (1 + 8 * math.e))
    no_match = replace(corrected, coordinate_probabilities=(nan, nan), no_match=True)
    assert no_match.confidence == 0.5
    # A task without the choice of "no match".
    assert replace(corrected, match_probability=None).confidence == pytest.approx(2 / 3)
