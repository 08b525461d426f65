"""Futures: maps drawn from the posterior, on which chosen cells tell what they do, in all rows."""

import numpy as np
import pytest

from metaphase.core import joint_thresholds
from metaphase.core.joint_thresholds import LEAPS, Outcomes
from metaphase.sweeps.search import futures
from metaphase.sweeps.search.futures import Futures

X = np.arange(13.0)
THETA = joint_thresholds.thetas(X[0], X[-1])
SHARE = np.exp(joint_thresholds.rises_at(tuple(THETA.tolist()), tuple(X.tolist())).log_yes_TxMxK)


def at(*told):
    """Outcomes of a row: (point, reached) of each seed."""
    yes, no = np.zeros(len(X)), np.zeros(len(X))
    for k, reached in told:
        (yes if reached else no)[k] += 1
    return Outcomes(X, yes, no)


def known(*outcomes):
    v = np.arange(float(len(outcomes)))
    posterior = joint_thresholds.posterior(THETA, v, outcomes, LEAPS)
    return posterior, Futures(THETA, v, outcomes, [SHARE] * len(outcomes), posterior)


def weights_of(one):
    one.pass_on(99)
    return np.stack([one.weight(w) for w in range(len(one._like_WxTxFxM))])


def marginal(weights):
    """Of theta, in each row and future; shape (W, T, F)."""
    return weights.sum(axis=3)


def test_before_a_cell_is_chosen_there_is_one_which_is_the_posterior():
    posterior, one = known(at((2, 0), (9, 1), (5, 1)))
    weights = weights_of(one)
    assert weights.shape[2] == 1
    assert not one.differ
    expected = posterior.weight_WxTxM.sum(axis=2)
    assert marginal(weights)[:, :, 0] == pytest.approx(expected, abs=2e-4)
    # several rows, whose steps are drawn anew: nearly the posterior
    posterior, one = known(at((2, 0), (9, 1)), at(), at((7, 0)))
    difference = marginal(weights_of(one))[:, :, 0] - posterior.weight_WxTxM.sum(axis=2)
    assert abs(difference).sum(axis=1).max() < 0.2


def test_what_is_expected_of_all_futures_is_what_is_known_now(monkeypatch):
    monkeypatch.setattr(futures.np, "clip", lambda *_: 3000)
    _, one = known(at((2, 0), (9, 1)), at((7, 0)))
    before = marginal(weights_of(one))[:, :, 0]
    one.choose(5, 0, 6, 1.0)
    one.choose(6, 1, 9, 1.0)
    after = marginal(weights_of(one))
    assert after.shape[2] == 3000
    assert np.cumsum(after.mean(axis=2) - before, axis=1) == pytest.approx(0, abs=0.02)
    # and in each of them more is known, in either row
    entropy = -np.sum(after * np.log2(after + 1e-30), axis=1).mean(axis=1)
    assert (entropy < -np.sum(before * np.log2(before + 1e-30), axis=1) - 0.05).all()


def test_a_row_learns_from_another_ones_cells():
    _, one = known(at(), at((1, 0), (11, 1)))
    before = marginal(weights_of(one))[0, :, 0]
    for cell, k in enumerate((4, 6, 8)):
        one.choose(cell, 1, k, 1.0)
    after = marginal(weights_of(one))[0]
    assert (after**2).sum(axis=0).mean() > 1.2 * (before**2).sum()


def test_the_order_in_which_cells_are_chosen_changes_nothing():
    found = []
    for order in (((7, 0, 6), (8, 1, 3)), ((8, 1, 3), (7, 0, 6))):
        _, one = known(at((2, 0)), at((9, 1)))
        for cell, w, k in order:
            one.choose(cell, w, k, 0.9)
        found.append(weights_of(one))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_a_cell_that_tells_nothing_changes_nothing():
    _, one = known(at((2, 0)), at((9, 1)))
    before = weights_of(one)
    one.choose(3, 0, 6, 0.0)
    after = weights_of(one)
    assert after == pytest.approx(np.repeat(before, one.number, axis=2), abs=1e-6)
