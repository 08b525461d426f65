"""Intervals of means are those of scipy's distributions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metaphase.analysis.statistics import intervals


def test_t_interval():
    values = np.array([0.2, 0.5, 0.9, 0.4])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    half = intervals.t_half_width(values.std(ddof=1), 4)
    assert (values.mean() - half, values.mean() + half) == pytest.approx((low, high))
    each = intervals.t_half_width(np.array([1.0, 1.0, np.nan]), np.array([2, 5, 1]))
    assert each[:2] == pytest.approx(stats.t.ppf(0.975, [1, 4]) / np.sqrt([2, 5]))
    assert np.isnan(each[2])  # a single value has none


def test_accuracies_intervals_end_at_0_and_1():
    accuracy, error = pd.Series([0.5, 0.99, 0.0]), pd.Series([0.1, 0.02, 0.0], dtype=object)
    low, high = intervals.accuracy_interval(accuracy, error)
    assert list(low) == pytest.approx([0.5 - 0.1959964, 0.99 - 0.0391993, 0])
    assert list(high) == pytest.approx([0.5 + 0.1959964, 1, 0])
