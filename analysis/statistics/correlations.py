"""Spearman's rank correlations with intervals: of two variables, partial, and their difference.

Intervals come from Fisher's z and the standard error sqrt((1 + r^2 / 2) / (n - 3)) of Bonett &
Wright (2000, Psychometrika 65:23). The difference of two correlations with the same variable, on
Fisher's scale, has the standard error of Meng, Rosenthal & Rubin (1992, Psychological Bulletin
111:172), widened by Bonett & Wright's factor for ranks: without it 95% intervals of strong
correlations held the truth 90% of the time in simulations, with it 94 to 98%.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.intervals import CONFIDENCE, normal_half_width

_PERFECT = 1 - 1e-12  # from here on a correlation is perfect, and its error is not finite

Estimate = tuple[float, float, float]  # a value and the ends of its interval
UNDEFINED: Estimate = (np.nan, np.nan, np.nan)


def rank_correlation(x: np.ndarray, y: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Spearman's correlation and its interval.

    Args:
        x, y: shape (n,); the interval needs n of 4 or more.

    Returns:
        NaN where it isn't defined: fewer than 2 values, or constant ones.
    """
    ranks = [pd.Series(v).rank().to_numpy() for v in (x, y)]
    n = len(x)
    if n < 2 or np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return UNDEFINED
    r = float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1, 1))
    return _fisher_interval(r, n - 3, confidence)


def partial_rank_correlation(
    x: np.ndarray, y: np.ndarray, given: np.ndarray, confidence: float = CONFIDENCE
) -> Estimate:
    """Spearman's partial correlation of x and y, `given` held equal, and its interval.

    A variable that is held equal costs one degree of freedom in Fisher's error (Fisher 1924).
    """
    r_xy, r_xg, r_yg = (rank_correlation(a, b)[0] for a, b in ((x, y), (x, given), (y, given)))
    left = (1 - r_xg**2) * (1 - r_yg**2)
    if not left > 1e-12:
        return UNDEFINED
    return _fisher_interval((r_xy - r_xg * r_yg) / float(np.sqrt(left)), len(x) - 4, confidence)


def _fisher_interval(r: float, freedom: int, confidence: float) -> Estimate:
    """r and its interval, which is NaN where the error isn't finite: a perfect rank correlation of
    a few models says nothing of how imperfect it may be."""
    if freedom < 1 or abs(r) > _PERFECT:
        return float(np.clip(r, -1, 1)), np.nan, np.nan
    half = normal_half_width(np.sqrt((1 + r**2 / 2) / freedom), confidence)
    z = np.arctanh(r)
    return r, float(np.tanh(z - half)), float(np.tanh(z + half))


def correlation_difference(
    x: np.ndarray, z: np.ndarray, y: np.ndarray, confidence: float = CONFIDENCE
) -> Estimate:
    """Rank correlation of y with x minus that with z, both Fisher-transformed, and its interval.

    NaN where it isn't defined: fewer than 4 values, constant ones, or a perfect correlation.
    """
    n = len(y)
    r_x, r_z, r_xz = (rank_correlation(a, b)[0] for a, b in ((x, y), (z, y), (x, z)))
    if n < 4 or not max(abs(r_x), abs(r_z)) < _PERFECT:
        return UNDEFINED
    mean = (r_x**2 + r_z**2) / 2
    f = min((1 - r_xz) / (2 * (1 - mean)), 1)
    h = (1 - f * mean) / (1 - mean)
    error = np.sqrt(2 * (1 - r_xz) * h / (n - 3) * (1 + mean / 2))
    difference = float(np.arctanh(r_x) - np.arctanh(r_z))
    half = float(normal_half_width(error, confidence))
    return difference, difference - half, difference + half
