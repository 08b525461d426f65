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


class Smoothed(NamedTuple):
    """What is known of theta and M other parameters at each size.

    Attributes:
        weight_WxTxM: their posterior weights.
        log_evidence: of the random walk.
        share_of_step: the posterior of which of `STEPS` it goes by, but for a factor.
    """

    weight_WxTxM: np.ndarray
    log_evidence: float
    share_of_step: np.ndarray


def smooth(
    theta_T: np.ndarray, v_W: np.ndarray, log_WxTxM: np.ndarray, leaps: float = 0.0
) -> Smoothed:
    """The posterior at each size, given that of all others.

    Args:
        v_W: log2 of the sizes, ascending.
        log_WxTxM: their log likelihoods; the M other parameters are those of all sizes.
        leaps: the share of steps from a size to the next that lead anywhere, all thetas being
            equally likely: a boundary may break off.
    """
    most_W = log_WxTxM.max(axis=(1, 2))
    like_WxTxM = without_traces(np.exp(log_WxTxM - most_W[:, None, None]))
    found, logs = [], []
    for step in range(len(STEPS)):
        only = np.eye(len(STEPS))[step]
        kernels = [walk(theta_T, dv, only, leaps) for dv in np.diff(v_W)]
        up_to, log = [like_WxTxM[0] / like_WxTxM[0].sum()], np.log(like_WxTxM[0].sum())
        for like_TxM, kernel_TxT in zip(like_WxTxM[1:], kernels, strict=True):
            message_TxM = forward(like_TxM, kernel_TxT, up_to[-1])
            log += np.log(message_TxM.sum())
            up_to.append(without_traces(message_TxM / message_TxM.sum()))
        after = [np.ones_like(up_to[0])]
        for like_TxM, kernel_TxT in zip(like_WxTxM[:0:-1], reversed(kernels), strict=True):
            after.append(backward(kernel_TxT, like_TxM, after[-1]))
        both_WxTxM = np.stack(up_to) * np.stack(after[::-1])
        found.append(both_WxTxM / both_WxTxM.sum(axis=(1, 2), keepdims=True))
        logs.append(float(log))
    most = max(logs)
    share_of_step = np.exp(np.array(logs) - most)
    weight_WxTxM = sum(share * weight for share, weight in zip(share_of_step, found, strict=True))
    evidence = np.log(share_of_step.mean()) + most - np.log(log_WxTxM[0].size)
    return Smoothed(np.asarray(weight_WxTxM), float(evidence + most_W.sum()), share_of_step)


def forward(like_TxM: np.ndarray, kernel_TxT: np.ndarray, before_TxM: np.ndarray) -> np.ndarray:
    """A size's posterior given those up to it, but for a factor.

    Args:
        like_TxM: its likelihoods. Here and in `backward` there may be more axes between T and M.
        kernel_TxT: `walk`'s, from the size before.
        before_TxM: what this gave of that one.
    """
    return like_TxM * _along(kernel_TxT.T, before_TxM)


def backward(kernel_TxT: np.ndarray, like_TxM: np.ndarray, after_TxM: np.ndarray) -> np.ndarray:
    """The likelihood of the sizes after one, but for a factor.

    Args:
        kernel_TxT: `walk`'s, to the next size.
        like_TxM: the likelihoods of that one.
        after_TxM: what this gave of that one.
    """
    message_TxM = _along(kernel_TxT, like_TxM * after_TxM)
    return without_traces(message_TxM / message_TxM.max(axis=(0, -1), keepdims=True))


def _along(kernel_TxT: np.ndarray, message_TxM: np.ndarray) -> np.ndarray:
    """The kernel times the message, whatever axes come after T."""
    product = kernel_TxT @ message_TxM.reshape(len(kernel_TxT), -1)
    return product.reshape(message_TxM.shape)


def without_traces(weight: np.ndarray) -> np.ndarray:
    """What is next to nothing made as little as can be multiplied: arithmetic with the smallest
    floats is slow, and where rows rule out what others need all would be nothing."""
    least: np.ndarray = np.maximum(weight, np.sqrt(np.finfo(weight.dtype).tiny))
    return least


def walk(theta_T: np.ndarray, dv: float, share_of_step: np.ndarray, leaps: float) -> np.ndarray:
    """Probabilities of the next size's theta (columns) given this one's (rows), shape (T, T).

    Args:
        dv: octaves between the sizes.
        share_of_step: of each of `STEPS`, the chance that the walk goes by it here.
        leaps: see `smooth`.
    """
    shares = share_of_step / share_of_step.sum()
    kernel_TxT = sum(
        share * _kernel(tuple(theta_T.tolist()), step, dv)
        for share, step in zip(shares, STEPS, strict=True)
        if share > 0
    )
    return (1 - leaps) * np.asarray(kernel_TxT) + leaps / len(theta_T)


@functools.lru_cache(maxsize=256)
def _kernel(theta_T: tuple[float, ...], step: float, dv: float) -> np.ndarray:
    """`walk`, of one step, without leaps."""
    theta = np.array(theta_T)
    kernel_TxT = np.exp(-((theta[:, None] - theta) ** 2) / (2 * step**2 * dv))
    normed: np.ndarray = kernel_TxT / kernel_TxT.sum(axis=1, keepdims=True)
    return normed


def posterior(
    theta_T: np.ndarray, v_W: np.ndarray, outcomes_W: Sequence[Outcomes], leaps: float = 0.0
) -> Smoothed:
    """The posterior of theta and M pairs of s and asymptotes at each size, if sizes share the
    asymptotes too; each size's weights add up to 1. Arguments as for `smooth`.

    A share of seeds that never get there takes many seeds to see. Where all sizes tell of it, few
    of each are enough.
    """
    found = smooth(theta_T, v_W, log_likelihoods(theta_T, outcomes_W), leaps)
    weight_WxTxM = found.weight_WxTxM
    return found._replace(weight_WxTxM=weight_WxTxM / weight_WxTxM.sum(axis=(1, 2), keepdims=True))


def log_likelihoods(theta_T: np.ndarray, outcomes_W: Sequence[Outcomes]) -> np.ndarray:
    """Of each size, at each theta and pair of s and asymptotes, shape (W, T, M)."""
    log_WxTxM = np.stack([log_likelihood(theta_T, at) for at in outcomes_W])
    return log_WxTxM.reshape(len(outcomes_W), len(theta_T), -1)
