"""How a checkpoint's probabilities are corrected, so that they are frequencies of right answers.

The values are fitted on validation data by ``llava-st train calibrate`` and stored in the
checkpoint's config.json. Without them, probabilities are the model's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llava_st_ros.errors import ConfigError, shown

MAX_LOG_ODDS = 30.0  # beyond, a probability differs from 0 or 1 by less than 1e-13


def sigmoid(log_odds: float) -> float:
    """Return the probability of log odds.

    >>> sigmoid(0.0), sigmoid(math.log(3)), sigmoid(-1e9)
    (0.5, 0.75, 0.0)
    """
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    return math.exp(log_odds) / (1.0 + math.exp(log_odds))


def log_odds(probability: float) -> float:
    """Return the log odds of a probability, within MAX_LOG_ODDS.

    >>> log_odds(0.5), log_odds(1.0)
    (0.0, 30.0)
    """
    if not 0.0 < probability < 1.0:
        return MAX_LOG_ODDS if probability >= 1.0 else -MAX_LOG_ODDS
    value = math.log(probability) - math.log1p(-probability)
    return min(MAX_LOG_ODDS, max(-MAX_LOG_ODDS, value))


@dataclass(frozen=True)
class MatchCalibration:
    """The probability that something matches (Platt, 1999).

        P(match) = sigmoid(scale * z + offset), z = logit of an answer - logit of "no match"

    Raises:
        ConfigError: ``scale`` is not positive, or a value is not finite.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("match", self)
        if self.scale <= 0:
            raise ConfigError(f"the calibration's scale is {self.scale:g}; expected more than 0")

    def probability(self, value: float) -> float:
        """Return P(match) for log odds z of the model."""
        return sigmoid(self.scale * value + self.offset)


@dataclass(frozen=True)
class ConfidenceCalibration:
    """The probability that an answer with coordinates is right: that its IoU is at least 0.5.

        P(right) = sigmoid(offset + match * L(P(match)) + coordinates * L(c))

    L(p) = log(p / (1 - p)); c is the mean probability of the selected coordinates.

    Raises:
        ConfigError: A value is not finite.
    """

    offset: float
    match: float
    coordinates: float

    def __post_init__(self) -> None:
        _check_finite("confidence", self)

    def probability(self, match: float, coordinates: float) -> float:
        """Return P(right) for P(match), as calibrated, and the mean coordinate probability."""
        value = self.match * log_odds(match) + self.coordinates * log_odds(coordinates)
        return sigmoid(self.offset + value)


@dataclass(frozen=True)
class ModalityCalibration:
    """The corrections for the tasks of one modality.

    Attributes:
        match: That of P(match).
        confidence: That of an answer's confidence; None for the product that is documented at
            ``decoding.generate.Generation.confidence``.
    """

    match: MatchCalibration = field(default_factory=MatchCalibration)
    confidence: ConfidenceCalibration | None = None


@dataclass(frozen=True)
class QueryCalibration:
    """The corrections for one kind of query: those for video tasks and for image tasks."""

    video: ModalityCalibration = field(default_factory=ModalityCalibration)
    image: ModalityCalibration = field(default_factory=ModalityCalibration)


@dataclass(frozen=True)
class Calibration:
    """The corrections of a checkpoint.

    They differ by kind of query, as a probability depends on how often something matches: in about
    one of seven windows of a stream, and in four of five questions about a clip.
    """

    standing: QueryCalibration = field(default_factory=QueryCalibration)
    one_shot: QueryCalibration = field(default_factory=QueryCalibration)


def _check_finite(name: str, values: MatchCalibration | ConfidenceCalibration) -> None:
    """Raise ConfigError unless all values are finite numbers; makes them floats."""
    for key, value in vars(values).items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) <= 1e6:  # false for NaN, too
            raise ConfigError(
                f"the calibration's {name}.{key} is {shown(value)}; expected a number from -1e6 "
                "to 1e6"
            )
        object.__setattr__(values, key, float(value))
