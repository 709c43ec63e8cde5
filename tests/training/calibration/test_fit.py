"""Fits of a calibration recover the values that samples were drawn with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llava_st_ros.calibration import MatchCalibration, ModalityCalibration, log_odds, sigmoid
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.match_samples import CLIPS, STREAMS, MatchSample
from llava_st_ros.records import Modality
from llava_st_ros.training.calibration.fit import (
    CONFIDENCE,
    MATCH,
    fit_calibration,
    fit_samples,
    measure,
)
from llava_st_ros.training.calibration.logistic import fit_logistic
from support.match_samples import drawn

VIDEO, IMAGE = Modality.VIDEO, Modality.IMAGE


def test_a_logistic_fit_recovers_its_parameters() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40_000, 2)) * (1.0, 20.0) + (0.0, 100.0)
    margin = -11.0 + 1.5 * features[:, 0] + 0.1 * features[:, 1]
    outcomes = rng.random(len(margin)) < 1 / (1 + np.exp(-margin))
    found = fit_logistic(features, outcomes)
    np.testing.assert_allclose(found, (-11.0, 1.5, 0.1), rtol=0.05)


def test_the_fit_is_where_the_likelihood_has_no_slope() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 1))
    outcomes = rng.random(300) < 0.3
    offset, slope = fit_logistic(features, outcomes)
    right = outcomes.sum()
    targets = np.where(outcomes, (right + 1) / (right + 2), 1 / (300 - right + 2))
    residual = 1 / (1 + np.exp(-(offset + slope * features[:, 0]))) - targets
    assert abs(residual.sum()) < 1e-6
    assert abs((residual * features[:, 0]).sum()) < 1e-2


def test_outcomes_that_a_feature_separates_have_a_finite_fit() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    offset, slope = fit_logistic(features, features[:, 0] > 0)
    assert offset == pytest.approx(0.0, abs=1e-6)
    # The smoothed targets are 3/4 and 1/4.
    assert 0.5 < slope < 1.2
    with pytest.raises(DataError, match="all of 4 samples"):
        fit_logistic(features, np.ones(4, bool))


def everything(count: int) -> list[MatchSample]:
    """Return samples of each kind of query and modality."""
    pairs = ((origin, modality) for origin in (STREAMS, CLIPS) for modality in (VIDEO, IMAGE))
    return [
        sample
        for seed, (origin, modality) in enumerate(pairs)
        for sample in drawn(count, modality, origin=origin, seed=seed)
    ]


def test_the_calibration_recovers_scale_and_offset_of_video_queries_from_streams() -> None:
    samples = [
        *drawn(20_000),
        *drawn(20_000, IMAGE, scale=2.0, offset=0.5, seed=1),
        *drawn(2_000, origin=CLIPS, offset=2.0),
        *drawn(2_000, IMAGE, origin=CLIPS, offset=2.0),
    ]
    found, notes = fit_calibration(samples)
    assert notes == []
    standing = found.standing.video
    assert standing.match.scale == pytest.approx(0.5, rel=0.06)
    assert standing.match.offset == pytest.approx(-1.0, rel=0.06)
    confidence = standing.confidence
    assert confidence is not None and confidence.match > 0 and confidence.coordinates > 0
    # Other queries are decided by the model's own probability.
    for other in (found.one_shot.video, found.one_shot.image):
        assert other.match == MatchCalibration()
        assert other.confidence is not None and other.confidence != confidence


def test_followed_objects_that_are_always_there_do_not_make_every_image_match() -> None:
    always = [replace(sample, matches=True) for sample in drawn(2_000, IMAGE, seed=1)]
    clips = [*drawn(2_000, origin=CLIPS, seed=2), *drawn(2_000, IMAGE, origin=CLIPS, seed=3)]
    found, notes = fit_calibration([*drawn(2_000), *always, *clips])
    assert notes == []
    assert found.standing.image == found.one_shot.image
    assert found.standing.image.match.probability(-1.0) < 0.5
    # They are measured by the fit to clips, which none of them is part of.
    measured = {(m.origin, m.modality, m.quantity): m for m in measure([*always, *clips])[0]}
    in_streams = measured[STREAMS, IMAGE, CONFIDENCE]
    confidence = found.standing.image.confidence
    assert confidence is not None
    np.testing.assert_allclose(
        in_streams.after,
        [confidence.probability(sigmoid(s.log_odds), s.coordinates) for s in always],
    )


def test_reliability_is_measured_on_samples_that_were_not_fitted_to() -> None:
    samples = everything(3_000)
    measured = {(m.origin, m.modality, m.quantity): m for m in measure(samples)[0]}
    assert list(measured) == [
        (origin, modality, quantity)
        for origin in (STREAMS, CLIPS)
        for modality in (VIDEO, IMAGE)
        for quantity in (MATCH, CONFIDENCE)
    ]
    match = measured[STREAMS, VIDEO, MATCH]
    assert len(match.outcomes) == 3_000
    assert match.outcomes.sum() == sum(sample.matches for sample in samples[:3_000])
    assert match.errors(match.after)[0] < 0.04 < match.errors(match.before)[0]
    for (origin, modality, quantity), each in measured.items():
        if quantity == MATCH and (origin, modality) != (STREAMS, VIDEO):
            np.testing.assert_array_equal(each.after, each.before)
        elif (origin, modality) != (STREAMS, IMAGE):  # drawn otherwise than those of clips
            assert each.errors(each.after)[1] < each.errors(each.before)[1]
    # A source with every outcome reversed spoils the fit for the other half, not its own.
    spoiled = [replace(s, matches=not s.matches) if s.source == "s0" else s for s in samples]
    again = measure(spoiled)[0][0]
    half = len(match.after) // 2
    np.testing.assert_array_equal(again.after[:half], match.after[:half])
    assert np.abs(again.after[half:] - match.after[half:]).max() > 0.01


def test_a_model_that_is_surer_where_nothing_matches_cannot_be_calibrated() -> None:
    with pytest.raises(DataError, match="lower where something matches"):
        fit_samples(drawn(500, scale=-0.5))
    with pytest.raises(DataError, match="no samples"):
        fit_calibration(drawn(500, IMAGE))


def test_what_cannot_be_fitted_is_named_and_keeps_the_models_probabilities() -> None:
    always = [replace(sample, is_right=True) for sample in drawn(400, IMAGE, origin=CLIPS)]
    found, notes = fit_calibration([*drawn(2_000), *always])
    assert found.standing.video.match.scale == pytest.approx(0.5, rel=0.2)
    assert found.standing.image == found.one_shot.video == ModalityCalibration()
    assert notes == [
        "video tasks, clips: not calibrated: there are no samples of a modality",
        "image tasks, clips: not calibrated: all of 400 samples have the same outcome",
    ]
    # Only one source has windows in which something matches: no fit of the other half has them.
    one = [replace(s, matches=s.matches and s.source == "s1") for s in drawn(2_000)]
    measured, notes = measure(one)
    assert measured == [] and len(notes) == 4
    assert notes[0].startswith("video tasks, streams: not measured: all of ")


def test_the_confidence_of_uninformative_coordinates_is_that_of_the_match() -> None:
    samples = [replace(s, coordinates=0.5, is_right=s.matches) for s in drawn(5_000)]
    found = fit_samples(samples)
    assert found.confidence is not None
    assert found.confidence.coordinates == pytest.approx(0.0, abs=1e-6)
    for odds in (-4.0, 0.0, 4.0):
        match = found.match.probability(odds)
        assert found.confidence.probability(match, 0.5) == pytest.approx(match, abs=0.01)
    assert math.isfinite(log_odds(0.0))
