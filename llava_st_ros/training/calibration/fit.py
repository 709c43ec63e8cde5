"""Fits a calibration to samples, and measures it on samples that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from llava_st_ros.calibration import (
    Calibration,
    ConfidenceCalibration,
    MatchCalibration,
    ModalityCalibration,
    QueryCalibration,
    log_odds,
    sigmoid,
)
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.match_samples import CLIPS, STREAMS, MatchSample
from llava_st_ros.evaluation.reliability import brier_score, expected_calibration_error
from llava_st_ros.records import Modality
from llava_st_ros.training.calibration.logistic import fit_logistic

MATCH, CONFIDENCE = "P(match)", "confidence"
# Standing video queries, one-shot video queries, image queries: what has a fit of its own.
FITTED = ((STREAMS, Modality.VIDEO), (CLIPS, Modality.VIDEO), (CLIPS, Modality.IMAGE))


@dataclass(frozen=True)
class Reliability:
    """One kind of probability before and after calibration.

    Attributes:
        origin: STREAMS for standing queries, CLIPS for one-shot queries.
        modality: Of the tasks.
        quantity: MATCH or CONFIDENCE.
        outcomes: Whether what was predicted is so, bool [N].
        before: The model's own probabilities, float64 [N].
        after: The calibrated ones, float64 [N], by a fit to other sources: of each half by that to
            the other half, of image tasks in streams by that to clips.
    """

    origin: str
    modality: Modality
    quantity: str
    outcomes: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def errors(self, probabilities: np.ndarray) -> tuple[float, float]:
        """Return ECE and Brier score of ``before`` or ``after``."""
        return (
            expected_calibration_error(probabilities, self.outcomes),
            brier_score(probabilities, self.outcomes),
        )


def fit_calibration(samples: Sequence[MatchSample]) -> tuple[Calibration, list[str]]:
    """Fit a calibration: that of standing video queries to streams, the others to clips.

    One-shot queries and those about images keep the model's P(match), so that even odds decide as
    they did in training. Streams say little about an image query that matches nothing: the objects
    that are followed there are nearly always visible, and P(match) would be high whatever is asked.

    Returns:
        The calibration, and what is not calibrated and why, one line each.

    Raises:
        DataError: Standing video queries cannot be calibrated: there are too few samples, or
            P(match) is lower where something matches.
    """
    fitted, notes = {}, []
    for kind in FITTED:
        try:
            fitted[kind] = fit_samples(_of(samples, *kind))
        except DataError as error:
            if kind == (STREAMS, Modality.VIDEO):
                raise
            fitted[kind] = ModalityCalibration()
            notes.append(f"{kind[1].value} tasks, {kind[0]}: not calibrated: {error.problem}")
    standing, one_shot, image = (fitted[kind] for kind in FITTED)
    return Calibration(QueryCalibration(standing, image), QueryCalibration(one_shot, image)), notes


def fit_samples(samples: Sequence[MatchSample]) -> ModalityCalibration:
    """Fit the calibration of one kind of query and one modality, as ``fit_calibration`` does."""
    if not samples:
        raise DataError("there are no samples of a modality", "use more clips or streams")
    is_standing = (samples[0].origin, samples[0].modality) == (STREAMS, Modality.VIDEO)
    match = _fit_match(samples) if is_standing else MatchCalibration()
    features = np.array(
        [
            (log_odds(match.probability(sample.log_odds)), log_odds(sample.coordinates))
            for sample in samples
        ]
    )
    fitted = fit_logistic(features, _right(samples))
    return ModalityCalibration(match, ConfidenceCalibration(*fitted))


def _fit_match(samples: Sequence[MatchSample]) -> MatchCalibration:
    odds = np.array([sample.log_odds for sample in samples])
    offset, scale = fit_logistic(odds[:, None], _matches(samples))
    if scale <= 0:
        raise DataError(
            f"P(match) is lower where something matches ({len(samples)} "
            f"{samples[0].modality.value} samples)",
            "the checkpoint has not learned when nothing matches: train it further",
        )
    return MatchCalibration(scale, offset)


def measure(samples: Sequence[MatchSample]) -> tuple[list[Reliability], list[str]]:
    """Return how reliable each kind of probability is before and after calibration.

    Returns:
        What could be measured, and what could not and why, one line each: a half of the sources may
        be too few for a fit.
    """
    found, notes = [], []
    for kind in product((STREAMS, CLIPS), (Modality.VIDEO, Modality.IMAGE)):
        of_kind = _of(samples, *kind)
        try:
            if kind in FITTED:
                first, second = _halves(of_kind)
                fits = [(first, fit_samples(second)), (second, fit_samples(first))]
            else:
                fits = [(of_kind, fit_samples(_of(samples, CLIPS, kind[1])))]
            found += _measure(*kind, fits)
        except DataError as error:
            notes.append(f"{kind[1].value} tasks, {kind[0]}: not measured: {error.problem}")
    return found, notes


def _halves(samples: Sequence[MatchSample]) -> tuple[list[MatchSample], list[MatchSample]]:
    """Return the samples of every other source, and the rest."""
    even = set(list(dict.fromkeys(sample.source for sample in samples))[::2])
    first, second = (
        [sample for sample in samples if (sample.source in even) == is_even]
        for is_even in (True, False)
    )
    return first, second


def _measure(
    origin: str,
    modality: Modality,
    fits: Sequence[tuple[Sequence[MatchSample], ModalityCalibration]],
) -> list[Reliability]:
    """Return the reliability of samples, each part with a fit to other sources."""
    ordered = [sample for part, _ in fits for sample in part]
    if not ordered:
        raise DataError("there are no samples of a modality", "use more clips or streams")
    matches, confidences = [], []
    for part, fit in fits:
        for sample in part:
            match = fit.match.probability(sample.log_odds)
            assert fit.confidence is not None
            matches.append(match)
            confidences.append(fit.confidence.probability(match, sample.coordinates))
    raw = np.array([sigmoid(sample.log_odds) for sample in ordered])
    product_of_both = raw * np.array([sample.coordinates for sample in ordered])
    return [
        Reliability(origin, modality, MATCH, _matches(ordered), raw, np.array(matches)),
        Reliability(
            origin, modality, CONFIDENCE, _right(ordered), product_of_both, np.array(confidences)
        ),
    ]


def _of(samples: Sequence[MatchSample], origin: str, modality: Modality) -> list[MatchSample]:
    return [s for s in samples if s.origin == origin and s.modality is modality]


def _matches(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.matches for sample in samples], bool)


def _right(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.is_right for sample in samples], bool)
