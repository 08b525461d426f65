"""Weighted quantiles, and what a grid can say of an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metaphase.core.thresholds import cut, quantiles


def test_values_of_a_grid_stand_for_what_is_nearest_to_them():
    x = np.array([0.0, 2.0, 4.0])
    assert quantiles(x, np.ones(3), 0.95) == pytest.approx((-1 + 0.15, 2, 5 - 0.15))
    assert quantiles(x, np.array([0.0, 1, 0]), 0.5) == pytest.approx((1.5, 2, 2.5))
    uneven = np.array([0.0, 1.0, 5.0])
    assert quantiles(uneven, np.array([0.0, 0, 1]), 0.5) == pytest.approx((4, 5, 6))


def test_order_and_repeated_values_make_no_difference():
    x = np.array([4.0, 0.0, 2.0, 4.0])
    expected = quantiles(np.array([0.0, 2.0, 4.0]), np.array([1.0, 2, 5]), 0.9)
    assert quantiles(x, np.array([3.0, 1, 2, 2]), 0.9) == pytest.approx(expected)


def test_a_single_value_is_all_three():
    assert quantiles(np.full(5, 3.0), np.ones(5), 0.95) == (3, 3, 3)


def test_many_samples_have_their_own_quantiles():
    x = np.random.default_rng(0).normal(size=20_000)
    expected = np.quantile(x, [0.025, 0.5, 0.975])
    assert quantiles(x, np.ones(len(x)), 0.95) == pytest.approx(tuple(expected), abs=0.002)


def test_a_grid_says_nothing_of_what_is_beyond_it():
    assert cut(2, 3, 4, 0, 8) == (2, 3, 4)
    assert cut(-1, 3, 9, 0, 8) == (-math.inf, 3, math.inf)
    low, middle, high = cut(9, 10, 11, 0, 8)
    assert (low, high) == (8, math.inf)
    assert math.isnan(middle)
    low, middle, high = cut(-3, -2, -1, 0, 8)
    assert (low, high) == (-math.inf, 0)
    assert math.isnan(middle)
