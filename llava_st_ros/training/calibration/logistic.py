"""Logistic regression by Newton's method."""

from __future__ import annotations

import numpy as np

from llava_st_ros.errors import DataError

_STEPS = 100
_TOLERANCE = 1e-9
_RIDGE = 1e-6  # of the mean loss, so that a feature without variation has a weight of 0


def fit_logistic(features: np.ndarray, outcomes: np.ndarray) -> tuple[float, ...]:
    """Return the intercept and the weight of each feature, of greatest likelihood.

    Outcomes are smoothed as by Platt (Probabilistic Outputs for Support Vector Machines, 1999), so
    that there is a finite fit where the features separate them: with N+ right and N- wrong ones,
    (N+ + 1) / (N+ + 2) and 1 / (N- + 2) instead of 1 and 0.

    Args:
        features: float64 [N, K].
        outcomes: bool [N].

    Raises:
        DataError: All outcomes are the same.
    """
    right, wrong = int(outcomes.sum()), int((~outcomes).sum())
    if not right or not wrong:
        raise DataError(
            f"all of {len(outcomes)} samples have the same outcome", "use more clips or streams"
        )
    targets = np.where(outcomes, (right + 1) / (right + 2), 1 / (wrong + 2))
    scale = np.maximum(1e-12, features.std(axis=0))
    center = features.mean(axis=0)
    design = np.column_stack([np.ones(len(features)), (features - center) / scale])
    penalty = np.full(design.shape[1], _RIDGE)
    penalty[0] = 0.0
    found = np.zeros(design.shape[1])

    def loss(values: np.ndarray) -> float:
        margin = design @ values
        fit = np.logaddexp(0.0, margin) - targets * margin
        return float(fit.mean() + penalty @ values**2 / 2)

    for _ in range(_STEPS):
        probabilities = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -500, 500)))
        gradient = design.T @ (probabilities - targets) / len(design) + penalty * found
        curvature = probabilities * (1.0 - probabilities) / len(design)
        hessian = design.T @ (curvature[:, None] * design) + np.diag(penalty + 1e-12)
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while loss(found - length * step) > loss(found) and length > 1e-6:
            length /= 2
        found -= length * step
        if np.abs(length * step).max() < _TOLERANCE:
            break
    slopes = found[1:] / scale
    return (float(found[0] - slopes @ center), *map(float, slopes))
