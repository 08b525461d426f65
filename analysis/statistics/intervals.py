"""Intervals of means: Student's t over seeds, the normal one over evaluation sequences.

Phases are decided by intervals of their own, see `analysis.statistics.phases`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

CONFIDENCE = 0.95  # of all intervals but those that decide phases


def t_half_width(
    deviation: np.ndarray | float, n: np.ndarray | float, confidence: float = CONFIDENCE
) -> np.ndarray:
    """Half of Student's t interval of a mean; any shape, elementwise.

    Args:
        deviation: of the sample, with n - 1 degrees of freedom.
        n: how many values the mean is of; for fewer than 2 the result is NaN.
    """
    n = np.asarray(n, dtype=float)
    with np.errstate(invalid="ignore"):
        return special.stdtrit(n - 1, (1 + confidence) / 2) * deviation / np.sqrt(n)


def normal_half_width(error: np.ndarray | float, confidence: float = CONFIDENCE) -> np.ndarray:
    """Half of the normal interval of an estimate with this standard error; any shape."""
    return special.ndtri((1 + confidence) / 2) * np.asarray(error, dtype=float)


def accuracy_interval(
    accuracy: pd.Series, error: pd.Series, confidence: float = CONFIDENCE
) -> tuple[pd.Series, pd.Series]:
    """Ends of the normal interval of accuracies with these standard errors, cut at 0 and 1."""
    half = normal_half_width(error.to_numpy(), confidence)
    return (accuracy - half).clip(0, 1), (accuracy + half).clip(0, 1)
