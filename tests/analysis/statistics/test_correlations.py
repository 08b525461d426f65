"""Rank correlations are Spearman's, and their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metaphase.analysis.statistics.correlations import (
    correlation_difference,
    partial_rank_correlation,
    rank_correlation,
)


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 20), rng.integers(0, 6, 20)  # with ties
    r, low, high = rank_correlation(x, y)
    assert r == pytest.approx(stats.spearmanr(x, y).statistic)
    assert low < r < high
    perfect = rank_correlation(np.arange(5), np.arange(5) ** 3)
    assert perfect == pytest.approx((1, np.nan, np.nan), nan_ok=True)  # no claim of certainty
    assert np.isnan(rank_correlation(np.arange(5), np.ones(5))[0])
    r, low, _ = rank_correlation(np.arange(3), np.array([1, 0, 2]))
    assert r == pytest.approx(0.5)
    assert np.isnan(low)


@pytest.mark.parametrize("n", [10, 14, 30])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.85])
def test_intervals_of_rank_correlations_cover(n, rho):
    """Of normal pairs Spearman's correlation is 6/pi asin(rho/2)."""
    rng = np.random.default_rng([n, int(100 * rho)])
    true, times = 6 / np.pi * np.arcsin(rho / 2), 600
    hits = 0
    for _ in range(times):
        x = rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
        _, low, high = rank_correlation(x, y)
        hits += low <= true <= high
    assert 0.925 <= hits / times <= 0.99


@pytest.mark.parametrize("n", [10, 14, 30])
@pytest.mark.parametrize(("between", "strength"), [(0.0, 0.3), (0.4, 0.6), (0.8, 0.9)])
def test_intervals_of_differences_between_correlations_cover(n, between, strength):
    """Both variables correlate equally with y, so the true difference is 0."""
    rng = np.random.default_rng([n, int(10 * between)])
    times = 500
    hits = 0
    for _ in range(times):
        x = rng.normal(size=n)
        z = between * x + np.sqrt(1 - between**2) * rng.normal(size=n)
        y = strength * (x + z) / np.sqrt(2 + 2 * between)
        y += np.sqrt(1 - strength**2) * rng.normal(size=n)
        _, low, high = correlation_difference(x, z, y)
        hits += low <= 0 <= high
    assert 0.92 <= hits / times <= 0.995


def test_a_difference_between_correlations_has_a_sign():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 40))
    difference, low, _ = correlation_difference(x, z, x + 0.3 * rng.normal(size=40))
    assert difference > low > 0
    assert np.isnan(correlation_difference(x, z, x)).all()


def test_partial_rank_correlation_is_that_of_residuals():
    rng = np.random.default_rng(0)
    x, y, given = (stats.rankdata(v) for v in rng.normal(size=(3, 25)))
    y = stats.rankdata(y + given)
    residuals = [v - np.polyval(np.polyfit(given, v, 1), given) for v in (x, y)]
    r, low, high = partial_rank_correlation(x, y, given)
    assert r == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert low < r < high
    assert np.isnan(partial_rank_correlation(x, y, x)[0])


@pytest.mark.parametrize("n", [12, 30])
def test_intervals_of_partial_correlations_cover(n):
    """x and y depend on each other through what is held equal alone."""
    rng, hits = np.random.default_rng(n), 0
    for _ in range(500):
        given, a, b = rng.normal(size=(3, n))
        _, low, high = partial_rank_correlation(given + a, given + b, given)
        hits += low <= 0 <= high
    # Ranks don't take out all of a linear influence, so a bit less than 95% for large n.
    assert 0.90 <= hits / 500 <= 0.99
