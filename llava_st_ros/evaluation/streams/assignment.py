"""The one-to-one assignment with the greatest total score."""

from __future__ import annotations

import numpy as np


def best_pairs(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the one-to-one assignment with the greatest sum of scores.

    Args:
        scores: float64 [N, M].

    Returns:
        Two int arrays [min(N, M)].

    >>> rows, columns = best_pairs(np.array([[0.9, 0.8], [0.8, 0.0]]))
    >>> rows.tolist(), columns.tolist()  # 0.8 + 0.8, although 0.9 is the greatest score
    ([0, 1], [1, 0])
    """
    if scores.shape == (1, 1):  # nearly every frame
        return np.zeros(1, np.intp), np.zeros(1, np.intp)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return rows, columns
