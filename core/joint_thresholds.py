"""Where a phase begins at several model sizes at once: `core.thresholds`' rises, joined.

All sizes share one sharpness s, and may share their asymptotes. The threshold theta(size) is a
random walk along log2 of the size, whose deviation an octave is one of `STEPS`, all equally likely.
So a size at which little was trained, or with no rise inside the grid, learns from its neighbours.
The first theta is equally likely from half the grid's length below it to as much above. The
posterior is summed over a grid of parameters, the random walk by the forward-backward algorithm
(Rabiner 1989, Proc. IEEE 77:257): no starting values, no failure to converge, no randomness.

It is here because both the analysis of a sweep and a sweep that seeks its boundary use it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaphase.core import thresholds

MOST_THETAS = 161  # a quarter of an octave apart on grids of 20 octaves
LEAPS = 0.05  # of a search: boundaries break off where models are too small, see `smooth`
STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)  # octaves of theta an octave of size


class Outcomes(NamedTuple):
    """What is known at one size: where seeds were trained, and how many reached the phase there
    and how many didn't; each of shape (K,)."""

    x_K: np.ndarray
    yes_K: np.ndarray
    no_K: np.ndarray


def thetas(first: float, last: float) -> np.ndarray:
    """The thetas of a grid from `first` to `last`, which go half its length past its ends."""
    margin = (last - first) / 2
    return np.linspace(first - margin, last + margin, MOST_THETAS)


def log_likelihood(theta_T: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """One size's, at each theta, width and pair of asymptotes; shape (T, S, A)."""
    x_K, yes_K, no_K = outcomes
    if not len(x_K):
        return np.zeros((len(theta_T), thresholds.WIDTHS, thresholds.PAIRS))
    table = rises_at(tuple(theta_T.tolist()), tuple(x_K.tolist()))
    log_TxM = table.log_likelihood(yes_K[None], no_K[None])[0]
    return log_TxM.reshape(len(theta_T), thresholds.WIDTHS, thresholds.PAIRS)


@functools.lru_cache(maxsize=64)
def rises_at(theta_T: tuple[float, ...], x_K: tuple[float, ...]) -> thresholds.Rises:
    """`thresholds.rises_at`, once for all sizes with the same numbers of tasks."""
    return thresholds.rises_at(np.array(theta_T), np.array(x_K))


def over_asymptotes(log_TxSxA: np.ndarray) -> np.ndarray:
    """A log likelihood averaged over the pairs of asymptotes, shape (T, S)."""
    most = log_TxSxA.max()
    averaged: np.ndarray = np.log(np.exp(log_TxSxA - most).mean(axis=2) + 1e-300) + most
    return averaged


def smooth(
    theta_T: np.ndarray, v_W: np.ndarray, log_WxTxS: np.ndarray, leaps: float = 0.0
) -> tuple[np.ndarray, float]:
    """Posterior weights of theta and s at each size, shape (W, T, S), and the log evidence of the
    random walk.

    Args:
        v_W: log2 of the sizes, ascending.
        log_WxTxS: their log likelihoods.
        leaps: the share of steps from a size to the next that lead anywhere, all thetas being
            equally likely: a boundary may break off.
    """
    most_W = log_WxTxS.max(axis=(1, 2))
    like_WxTxS = _without_traces(np.exp(log_WxTxS - most_W[:, None, None]))
    found, logs = [], []
    for step in STEPS:
        kernels = [_kernel(tuple(theta_T.tolist()), step, dv, leaps) for dv in np.diff(v_W)]
        forward, log = [like_WxTxS[0] / like_WxTxS[0].sum()], np.log(like_WxTxS[0].sum())
        for like_TxS, kernel_TxT in zip(like_WxTxS[1:], kernels, strict=True):
            message_TxS = like_TxS * (kernel_TxT.T @ forward[-1])
            log += np.log(message_TxS.sum())
            forward.append(_without_traces(message_TxS / message_TxS.sum()))
        backward = [np.ones_like(forward[0])]
        for like_TxS, kernel_TxT in zip(like_WxTxS[:0:-1], reversed(kernels), strict=True):
            message_TxS = kernel_TxT @ (like_TxS * backward[-1])
            backward.append(_without_traces(message_TxS / message_TxS.max()))
        both_WxTxS = np.stack(forward) * np.stack(backward[::-1])
        found.append(both_WxTxS / both_WxTxS.sum(axis=(1, 2), keepdims=True))
        logs.append(log)
    most = max(logs)
    share_of_step = np.exp(np.array(logs) - most)
    weight_WxTxS = sum(share * weight for share, weight in zip(share_of_step, found, strict=True))
    evidence = np.log(share_of_step.mean()) + most - np.log(log_WxTxS[0].size)
    return np.asarray(weight_WxTxS), float(evidence + most_W.sum())


def _without_traces(weight: np.ndarray) -> np.ndarray:
    """What is next to nothing made nothing: arithmetic with the smallest floats is slow."""
    return np.where(weight < 1e-100, 0.0, weight)


@functools.lru_cache(maxsize=256)
def _kernel(theta_T: tuple[float, ...], step: float, dv: float, leaps: float) -> np.ndarray:
    """Probabilities of the next size's theta (columns) given this one's (rows)."""
    theta = np.array(theta_T)
    kernel_TxT = np.exp(-((theta[:, None] - theta) ** 2) / (2 * step**2 * dv))
    kernel_TxT = kernel_TxT / kernel_TxT.sum(axis=1, keepdims=True)
    return (1 - leaps) * kernel_TxT + leaps / len(theta)


def posterior(
    theta_T: np.ndarray, v_W: np.ndarray, outcomes_W: Sequence[Outcomes], leaps: float = 0.0
) -> np.ndarray:
    """The posterior of theta and M pairs of s and asymptotes at each size, shape (W, T, M), if
    sizes share the asymptotes too; each size's adds up to 1. Arguments as for `smooth`.

    A share of seeds that never get there takes many seeds to see. Where all sizes tell of it, few
    of each are enough.
    """
    log_WxTxM = np.stack([log_likelihood(theta_T, at) for at in outcomes_W])
    log_WxTxM = log_WxTxM.reshape(len(v_W), len(theta_T), -1)
    weight_WxTxM, _ = smooth(theta_T, v_W, log_WxTxM, leaps)
    return weight_WxTxM / weight_WxTxM.sum(axis=(1, 2), keepdims=True)
