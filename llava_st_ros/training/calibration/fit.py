"""Fits a calibration to samples, and measures it on samples that it was not fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_st_ros.calibration import (
    Calibration,
    ConfidenceCalibration,
    MatchCalibration,
    ModalityCalibration,
    log_odds,
    sigmoid,
)
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.match_samples import MatchSample
from llava_st_ros.evaluation.reliability import brier_score, expected_calibration_error
from llava_st_ros.records import Modality
from llava_st_ros.training.calibration.logistic import fit_logistic

MATCH, CONFIDENCE = "P(match)", "confidence"


@dataclass(frozen=True)
class Reliability:
    """One kind of probability before and after calibration.

    Attributes:
        modality: Of the tasks.
        quantity: MATCH or CONFIDENCE.
        outcomes: Whether what was predicted is so, bool [N].
        before: The model's own probabilities, float64 [N].
        after: The calibrated ones, float64 [N]: of each half of the sources by the calibration that
            is fitted to the other half.
    """

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


def fit_calibration(samples: Sequence[MatchSample]) -> Calibration:
    """Fit a calibration.

    Clips and streams have the same weight, however many samples each of them has.

    Raises:
        DataError: There are too few samples, or P(match) is lower where something matches.
    """
    return Calibration(
        *(fit_modality(_of(samples, modality)) for modality in (Modality.VIDEO, Modality.IMAGE))
    )


def fit_modality(samples: Sequence[MatchSample]) -> ModalityCalibration:
    """Fit the calibration of the tasks of one modality, as ``fit_calibration`` does."""
    if not samples:
        raise DataError("there are no samples of a modality", "use more clips or streams")
    counts = Counter(sample.origin for sample in samples)
    weights = np.array([1.0 / counts[sample.origin] for sample in samples])
    odds = np.array([sample.log_odds for sample in samples])
    offset, scale = fit_logistic(odds[:, None], _matches(samples), weights)
    if scale <= 0:
        raise DataError(
            f"P(match) is lower where something matches ({len(samples)} "
            f"{samples[0].modality.value} samples)",
            "the checkpoint has not learned when nothing matches: train it further",
        )
    match = MatchCalibration(scale, offset)
    features = np.array(
        [
            (log_odds(match.probability(sample.log_odds)), log_odds(sample.coordinates))
            for sample in samples
        ]
    )
    fitted = fit_logistic(features, _right(samples), weights)
    return ModalityCalibration(match, ConfidenceCalibration(*fitted))


def measure(samples: Sequence[MatchSample]) -> list[Reliability]:
    """Return how reliable each kind of probability is before and after calibration.

    Raises:
        DataError: As ``fit_calibration`` does, for each half of the sources.
    """
    found = []
    for modality in (Modality.VIDEO, Modality.IMAGE):
        of_modality = _of(samples, modality)
        sources = list(dict.fromkeys(sample.source for sample in of_modality))
        even = set(sources[::2])
        halves = [
            [sample for sample in of_modality if (sample.source in even) == is_even]
            for is_even in (True, False)
        ]
        fits = fit_modality(halves[1]), fit_modality(halves[0])
        ordered = [sample for half in halves for sample in half]
        matches, confidences = [], []
        for half, fit in zip(halves, fits):
            for sample in half:
                match = fit.match.probability(sample.log_odds)
                assert fit.confidence is not None
                matches.append(match)
                confidences.append(fit.confidence.probability(match, sample.coordinates))
        raw = np.array([sigmoid(sample.log_odds) for sample in ordered])
        product = raw * np.array([sample.coordinates for sample in ordered])
        found += [
            Reliability(modality, MATCH, _matches(ordered), raw, np.array(matches)),
            Reliability(modality, CONFIDENCE, _right(ordered), product, np.array(confidences)),
        ]
    return found


def _of(samples: Sequence[MatchSample], modality: Modality) -> list[MatchSample]:
    return [sample for sample in samples if sample.modality is modality]


def _matches(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.matches for sample in samples], bool)


def _right(samples: Sequence[MatchSample]) -> np.ndarray:
    return np.array([sample.is_right for sample in samples], bool)
