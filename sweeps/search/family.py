"""A family of rows: what is known of where a phase begins in them, and what cells would tell.

What is known of other families stays as it is when a cell is finished, so it is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaphase.core import joint_thresholds
from metaphase.core.joint_thresholds import LEAPS, Outcomes, Smoothed
from metaphase.core.thresholds import quantiles
from metaphase.sweeps.search.futures import Futures

CONFIDENCE = 0.95
LEAST_BITS = 0.003  # a cell that tells less tells nothing
NEAR = 8  # rows on either side that are looked at again when a cell is chosen

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Rows:
    """W rows by ascending size, and what is known of a phase in them.

    Attributes:
        sizes: model sizes.
        x: log2 of each row's numbers of tasks, its points.
        yes, no: how many seeds reached the phase at each, and how many didn't.
    """

    sizes: Numbers
    x: tuple[Numbers, ...]
    yes: tuple[Numbers, ...]
    no: tuple[Numbers, ...]

    @functools.cached_property
    def theta_T(self) -> np.ndarray:
        """The thetas of the posterior."""
        return joint_thresholds.thetas(min(x[0] for x in self.x), max(x[-1] for x in self.x))

    @property
    def v_W(self) -> np.ndarray:
        """log2 of the sizes."""
        return np.log2(np.array(self.sizes))

    @property
    def outcomes(self) -> list[Outcomes]:
        rows = zip(self.x, self.yes, self.no, strict=True)
        return [Outcomes(*map(np.array, row)) for row in rows]


@functools.lru_cache(maxsize=16)  # of 0.4 MB for each five rows
def posterior(rows: Rows) -> Smoothed:
    """`joint_thresholds.posterior`, with leaps."""
    return joint_thresholds.posterior(rows.theta_T, rows.v_W, rows.outcomes, LEAPS)


@functools.lru_cache(maxsize=4096)
def ends(rows: Rows) -> list[tuple[float, float, float]]:
    """Low end, median and high end of each row's theta, at `CONFIDENCE`."""
    weight_WxT = posterior(rows).weight_WxTxM.sum(axis=2)
    return [quantiles(rows.theta_T, weight_T, CONFIDENCE) for weight_T in weight_WxT]


class Family:
    """What cells of a family would tell, given those that are chosen.

    Args:
        rows: what is known.
        worth: the chance that a cell at each point of each row has a phase at all.
        enough: octaves of each row's interval that are narrow enough; inf: it is left alone.

    Attributes:
        octaves: what a cell at each point of each row is to take off its interval.
    """

    def __init__(self, rows: Rows, worth: tuple[Numbers, ...], enough: Numbers) -> None:
        self._rows, self._worth, self._enough = rows, worth, enough
        self._futures: Futures | None = None
        self.octaves: list[np.ndarray] = list(_alone(rows, worth, enough))

    def choose(self, cell: int, w: int, k: int) -> None:
        """Takes what a cell at point k of row w will tell into account; `look` looks at it."""
        if self._futures is None:
            self._futures = _futures(self._rows)
        self._futures.choose(cell, w, k, self._worth[w][k])

    def look(self) -> None:
        """Computes the octaves of rows anew of which more is known now."""
        if self._futures is None:
            return
        for w in self._futures.pass_on(NEAR):
            if self._enough[w] < np.inf:
                self.octaves[w] = _octaves(
                    self._rows, self._futures, w, self._worth[w], self._enough[w]
                )


def _futures(rows: Rows) -> Futures:
    theta = tuple(rows.theta_T.tolist())
    shares = [_shares(theta, x) for x in rows.x]
    return Futures(rows.theta_T, rows.v_W, rows.outcomes, shares, posterior(rows))


@functools.lru_cache(maxsize=64)
def _shares(theta_T: Numbers, x_K: Numbers) -> np.ndarray:
    """P(y = 1), shape (T, M, K)."""
    return np.exp(joint_thresholds.rises_at(theta_T, x_K).log_yes_TxMxK)


@functools.lru_cache(maxsize=4096)
def _alone(rows: Rows, worth: tuple[Numbers, ...], enough: Numbers) -> tuple[np.ndarray, ...]:
    """The octaves where no cell is chosen."""
    futures = _futures(rows)
    return tuple(
        _octaves(rows, futures, w, worth[w], enough[w])
        if enough[w] < np.inf
        else np.zeros(len(rows.x[w]))
        for w in range(len(rows.x))
    )


def _octaves(
    rows: Rows, futures: Futures, w: int, worth_K: Sequence[float], enough: float
) -> np.ndarray:
    """What a cell at each of a row's points is to take off its interval, the mean over futures;
    nothing in those where it is narrow enough."""
    x_K, weight_TxFxM = np.array(rows.x[w]), futures.weight(w)
    bits_FxK = _information(rows.theta_T, x_K, weight_TxFxM, futures.share_WxTxMxK[w]) * worth_K
    width_F = _widths(rows.theta_T, x_K, weight_TxFxM.sum(axis=2))
    if futures.differ:
        width_F = np.where(width_F > enough, width_F, 0.0)
    octaves_K = ((1 - 2**-bits_FxK) * width_F[:, None]).mean(axis=0)
    return np.where(bits_FxK.mean(axis=0) < LEAST_BITS, 0.0, octaves_K)


def _information(
    theta_T: np.ndarray, x_K: np.ndarray, weight_TxFxM: np.ndarray, share_TxMxK: np.ndarray
) -> np.ndarray:
    """Bits that a cell at each point tells of theta, in each future, shape (F, K). Thetas beyond an
    end of the grid are one."""
    inside = np.flatnonzero((theta_T >= x_K[0]) & (theta_T <= x_K[-1]))
    lumps = np.unique([0, *inside, min(inside[-1] + 1, len(theta_T) - 1)])
    yes_BxFxK = np.add.reduceat(weight_TxFxM @ share_TxMxK, lumps)
    all_BxFx1 = np.add.reduceat(weight_TxFxM.sum(axis=2), lumps)[..., None]
    of_theta = (_bits(yes_BxFxK) + _bits(all_BxFx1 - yes_BxFxK) - _bits(all_BxFx1)).sum(axis=0)
    yes_FxK = yes_BxFxK.sum(axis=0)
    return np.maximum(0.0, _bits(yes_FxK) + _bits(1 - yes_FxK) - of_theta)


def _bits(p: np.ndarray) -> np.ndarray:
    """-p log2 p, and 0 of 0."""
    p = np.maximum(p, 1e-30)
    bits: np.ndarray = -p * np.log2(p)
    return bits


def _widths(theta_T: np.ndarray, x_K: np.ndarray, weight_TxF: np.ndarray) -> np.ndarray:
    """Octaves of the interval of `quantiles` inside the grid, in each future, shape (F,)."""
    spacing = theta_T[1] - theta_T[0]
    until_TxF = np.cumsum(weight_TxF, axis=0)
    found = []
    for wanted in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        t_F = (until_TxF < wanted * until_TxF[-1]).sum(axis=0)
        here_F = np.take_along_axis(weight_TxF, t_F[None], axis=0)[0]
        beyond_F = np.take_along_axis(until_TxF, t_F[None], axis=0)[0] - wanted * until_TxF[-1]
        end_F = theta_T[t_F] + spacing * (0.5 - beyond_F / here_F)
        found.append(np.clip(end_F, x_K[0], x_K[-1]))
    width_F: np.ndarray = found[1] - found[0]
    return width_F
