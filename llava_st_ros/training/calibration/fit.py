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
MODALITIES = (Modality.VIDEO, Modality.IMAGE)


@dataclass(frozen=True)
class Reliability:
    """One kind of probability before and after calibration.

    Attributes:
        origin: STREAMS for standing queries, CLIPS for one-shot queries.
        modality: Of the tasks.
        quantity: MATCH or CONFIDENCE.
        outcomes: Whether what was predicted is so, bool [N].
        before: The model's own probabilities, float64 [N].
        after: The calibrated ones, float64 [N]: of each half of the sources by the calibration that
            is fitted to the other half.
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
    """Fit a calibration: that of standing queries to streams, that of one-shot queries to clips.

    One-shot queries keep the model's P(match), so that even odds decide as they did in training.

    Returns:
        The calibration, and what is not calibrated and why, one line each: a followed object that
        is always visible says nothing about P(match).

    Raises:
        DataError: Standing video queries cannot be calibrated: there are too few samples, or
            P(match) is lower where something matches.
    """
    fitted, notes = {}, []
    for kind in product((STREAMS, CLIPS), MODALITIES):
        try:
            fitted[kind] = fit_samples(_of(samples, *kind))
        except DataError as error:
            if kind == (STREAMS, Modality.VIDEO):
                raise
            fitted[kind] = ModalityCalibration()
            notes.append(f"{kind[1].value} tasks, {kind[0]}: not calibrated: {error.problem}")
    standing, one_shot = (
        QueryCalibration(*(fitted[origin, modality] for modality in MODALITIES))
        for origin in (STREAMS, CLIPS)
    )
    return Calibration(standing, one_shot), notes


def fit_samples(samples: Sequence[MatchSample]) -> ModalityCalibration:
    """Fit the calibration of one kind of query and one modality, as ``fit_calibration`` does."""
    if not samples:
        raise DataError("there are no samples of a modality", "use more clips or streams")
    match = _fit_match(samples) if samples[0].origin == STREAMS else MatchCalibration()
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
    for origin, modality in product((STREAMS, CLIPS), MODALITIES):
        try:
            found += _measure(_of(samples, origin, modality))
        except DataError as error:
            notes.append(f"{modality.value} tasks, {origin}: not measured: {error.problem}")
    return found, notes


def _measure(samples: Sequence[MatchSample]) -> list[Reliability]:
    sources = list(dict.fromkeys(sample.source for sample in samples))
    even = set(sources[::2])
    halves = [
        [sample for sample in samples if (sample.source in even) == is_even]
        for is_even in (True, False)
    ]
    fits = fit_samples(halves[1]), fit_samples(halves[0])
    ordered = [sample for half in halves for sample in half]
    matches, confidences = [], []
    for half, fit in zip(halves, fits):
        for sample in half:
            match = fit.match.probability(sample.log_odds)
            assert fit.confidence is not None
            matches.append(match)
            confidences.append(fit.confidence.probability(match, sample.coordinates))
    raw = np.array([sigmoid(sample.log_odds) for sample in ordered])
    product_of_both = raw * np.array([sample.coordinates for sample in ordered])
    kind = ordered[0].origin, ordered[0].modality
    return [
        Reliability(*kind, MATCH, _matches(ordered), raw, np.array(matches)),
        Reliability(*kind, CONFIDENCE, _right(ordered), product_of_both, np.array(confidences)),
    ]


def _of(samples: Sequence[MatchSample], origin: str, modality: Modality) -> list[MatchSample]:
    return [s for s in samples if s.origin == origin and s.modality is modality]


def _matches(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.matches for sample in samples], bool)


def _right(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.is_right for sample in samples], bool)
