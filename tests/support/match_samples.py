"""Samples of questions whose probabilities are known."""

from __future__ import annotations

import numpy as np

from llava_st_ros.calibration import sigmoid
from llava_st_ros.evaluation.match_samples import STREAMS, MatchSample
from llava_st_ros.records import Modality


def drawn(
    count: int,
    modality: Modality = Modality.VIDEO,
    *,
    scale: float = 0.5,
    offset: float = -1.0,
    origin: str = STREAMS,
    seed: int = 0,
) -> list[MatchSample]:
    """Draw samples for which P(match) = sigmoid(scale z + offset), P(right | match) = c."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        odds, coordinates = float(rng.normal(0, 4)), float(rng.uniform(0.1, 0.95))
        matches = bool(rng.random() < sigmoid(scale * odds + offset))
        is_right = matches and bool(rng.random() < coordinates)
        samples.append(
            MatchSample(origin, f"s{number % 10}", modality, odds, coordinates, matches, is_right)
        )
    return samples
