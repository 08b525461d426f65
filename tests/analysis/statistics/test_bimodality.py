"""The dip is the distance to the closest unimodal distribution; two modes are told from one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from metaphase.analysis.statistics.bimodality import dip, dip_test, pooled_test


def by_linear_programs(x: np.ndarray) -> float:
    """The dip from its definition: for each place of the mode, the closest distribution function
    that is linear between the values, convex before the mode and concave after it."""
    x, n = np.sort(x), len(x)
    steps = (np.eye(n + 1)[1:n] - np.eye(n + 1)[: n - 1]) / np.diff(x)[:, None]  # slopes
    unit, slack = np.eye(n + 1)[:n], np.eye(n + 1)[n]
    ends = [(i, (i + side) / n) for i in range(n) for side in (0, 1)]  # of the empirical jumps
    near = [(unit[i] - slack, at) for i, at in ends] + [(-unit[i] - slack, -at) for i, at in ends]
    best = 1.0
    for mode in range(n - 1):
        shape = [(-step, 0.0) for step in steps]
        shape += [((1 if i < mode else -1) * (steps[i] - steps[i + 1]), 0.0) for i in range(n - 2)]
        rows, bounds = zip(*near, *shape, strict=True)
        found = optimize.linprog(slack, np.array(rows), bounds, bounds=[(0, 1)] * (n + 1))
        best = min(best, found.fun) if found.success else best
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_dip_is_what_it_is_defined_as(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 13))
    x = rng.random(n)
    if seed % 2:
        x = np.concatenate([rng.normal(0, 0.1, n // 2), rng.normal(1, 0.1, n - n // 2)])
    assert dip(x) == pytest.approx(by_linear_programs(x), abs=1e-6)


def test_ties_and_scale():
    assert dip(np.ones(6)) == pytest.approx(1 / 12)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert 0 < dip(rng.integers(0, 3, 9)) <= 0.25
    x = rng.random(20)
    assert dip(5 - 3 * x) == pytest.approx(dip(x))


@pytest.mark.parametrize(
    ("values", "found", "p"),
    [(np.random.default_rng(3).random(12), 0.09533416503285314, 0.4262),
     (np.concatenate([np.linspace(0.2, 0.25, 6), np.linspace(0.6, 0.7, 5)]),
      0.1767676767676768, 0.0005),
     ([0.1, 0.1, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.9], 0.19047619047619052, 0.001)],
)  # fmt: skip
def test_the_same_values_have_the_same_p_value_everywhere(values, found, p):
    """From an implementation of AS 217 by hand; the null samples are always the same."""
    assert dip_test(np.asarray(values)) == pytest.approx((found, p), rel=1e-12)


def test_p_values_are_uniform_for_uniform_values_and_small_for_two_modes():
    rng = np.random.default_rng(1)
    p = [dip_test(rng.random(12))[1] for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    one = [dip_test(rng.normal(size=12))[1] for _ in range(100)]
    assert np.mean(np.array(one) <= 0.05) < 0.05  # a normal's dip is smaller still
    for _ in range(20):
        two = np.concatenate([rng.normal(0.2, 0.02, 6), rng.normal(0.6, 0.02, 6)])
        assert dip_test(two)[1] < 0.01


def pooled(value_PxS, least=0.1):
    points, seeds = value_PxS.shape
    at = np.repeat(np.arange(points), seeds)
    return pooled_test(value_PxS.ravel(), at, np.full(at.shape, least))


def test_few_seeds_at_many_points_speak_together():
    rng = np.random.default_rng(2)
    two = np.tile([0.02, 0.98], (6, 1)) + rng.normal(0, 0.05, (6, 2))
    found = pooled(two)
    assert found.values == 12
    assert found.p < 0.01
    assert found.power > 0.5
    agree = np.concatenate([two, np.full((5, 2), 0.5)])  # seeds that agree say nothing
    assert pooled(agree) == found
    assert pooled(two[:3]) is None
    assert pooled(np.full((9, 2), 0.5)) is None


def test_points_are_chosen_by_their_range_under_the_null_too():
    """Without that, leaving out seeds that agree would look like two modes."""
    rng = np.random.default_rng(3)
    p = [pooled(rng.random((24, 2)), 0.4).p for _ in range(40)]
    assert np.mean(np.array(p) <= 0.1) < 0.28
    assert np.mean(p) > 0.35
