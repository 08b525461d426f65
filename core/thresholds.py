"""The model of where, along one axis of a grid, a phase begins, and where it ends again.

Seeds reach a phase or don't. Along x, log2 of the number of tasks say, their share is

    rise   P(y = 1 | x) = lo + (hi - lo) / (1 + exp(-(x - theta) / s))
    band   P(y = 1 | x) = lo + (hi - lo) / (1 + exp(-(x - begin) / s)) / (1 + exp(-(end - x) / s))

with asymptotes as Wichmann & Hill's lapses (2001, Perception & Psychophysics 63:1293): seeds that
never get there, or that are there too early, don't drag theta along. Inference is Bayesian (Kuss,
Jaekel & Wichmann 2005, Journal of Vision 5:478): flat priors on theta, log s and pairs of
asymptotes, of which one at most is away from its end. That prior is the same when x and y are both
turned around, so outcomes that favour no half of the grid have their estimate in its middle. The
posterior is summed over a grid of parameters: no starting values, no failure to converge, no
randomness.

Whether anything rises is a comparison of models (Kass & Raftery 1995, JASA 90:773): the Bayes
factor of a rise inside the grid against a constant share, whose prior is flat on [0, 1], is 1 or
more, and larger than for all but `LEVEL` of the arrangements of the same outcomes over the grid,
which are equally likely where the share is constant (a permutation test; arrangements that tie
count half, as in Lancaster's mid-p, 1961, JASA 56:223). So about that part of grids with a constant
share at most has a transition, whatever their size. A band that ends inside the grid needs
`BAND_EVIDENCE`.

It is here, beside the rule of phases, because a plan for a sweep asks it how many seeds are needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Values of censored
INSIDE = ""  # the estimate lies within the grid
BELOW = "below"  # the phase is there at the grid's smallest value
ABOVE = "above"  # it has not begun at the largest
UNCLEAR = "unclear"  # a constant share of seeds fits better than a rise or a band

# Grids of the posterior
_PER_OCTAVE = 8  # thetas of a rise
_BEYOND = 2  # theta may lie this many spacings outside the grid, where it counts as censored
WIDTHS = 6  # how many values s has
_WIDTHS = np.geomspace(1 / 8, 4, WIDTHS)  # s in octaves: from a step to a rise over most of a grid
_BAND_WIDTHS = np.geomspace(1 / 8, 2, 4)
_LAPSE = 0.01  # outcomes that are mistakes: lo of most rises, 1 - hi of the others
_HIGHS = np.array([0.99, 0.9, 0.75, 0.6, 0.45, 0.3])  # share of seeds that reach it in the end
_ASYMPTOTES = np.array([(_LAPSE, h) for h in _HIGHS] + [(1 - h, 1 - _LAPSE) for h in _HIGHS[1:]])
PAIRS = len(_ASYMPTOTES)
_MOST_ENDS = 50  # values of a band's begin and end, at most
_PER_GAP = 4  # and at most this many for each spacing of the grid
_ROWS = 32  # bands of so many rows at once

# A band explains many accidents of few outcomes, so it needs strong evidence: this Bayes factor
# against a rise without an end and against a constant share.
BAND_EVIDENCE = 10.0

LEVEL = 0.05  # of the test whether a rise is an accident of how outcomes are arranged
_ARRANGEMENTS = 199  # drawn for it, so that a share of 0.05 is within 0.015
_SURE = 20.0  # Bayes factor that is never reached by so many arrangements (docs/statistics.md)


@dataclass(frozen=True)
class Threshold:
    """An estimate on the axis x. Open ends of the interval are -inf and inf."""

    estimate: float  # NaN if censored
    low: float
    high: float
    censored: str  # one of INSIDE, BELOW, ABOVE, UNCLEAR
    # of a begin: a rise or band inside the grid against a constant share; of an end: the band
    # against the better of a rise without an end and a constant share
    bayes_factor: float
    # whether it can be said, if only on which side of the grid it is; where not, an estimate is
    # what it would be if the phase began within the grid
    clear: bool = True


@dataclass(frozen=True)
class Fit:
    """Where a phase begins, and where it ends if it comes and goes within the grid."""

    begin: Threshold
    end: Threshold | None = None


@dataclass(frozen=True)
class Rises:
    """Log probabilities of y = 1 and y = 0 at a grid of parameters: T thetas, M other ones.

    Attributes:
        theta_T: equally spaced, symmetric about the grid's middle.
        log_yes_TxMxK, log_no_TxMxK: at the K values of the axis.
    """

    theta_T: np.ndarray
    log_yes_TxMxK: np.ndarray
    log_no_TxMxK: np.ndarray

    def log_likelihood(self, yes_RxK: np.ndarray, no_RxK: np.ndarray) -> np.ndarray:
        """Of R rows of counts, shape (R, T, M)."""
        return _log_likelihood(self.log_yes_TxMxK, self.log_no_TxMxK, yes_RxK, no_RxK)


def fit(x_K: np.ndarray, yes_RxK: np.ndarray, no_RxK: np.ndarray, confidence: float) -> list[Fit]:
    """Begin and end of each row of outcomes at the same values of x.

    Args:
        x_K: ascending, distinct.
        yes_RxK, no_RxK: how many seeds reached the phase, and how many didn't.
        confidence: posterior probability of the intervals, their tails equal. They may hold more:
            an interval spans the gap of the grid that its estimate lies in.
    """
    x_K = np.asarray(x_K, dtype=float)
    yes_RxK, no_RxK = (np.atleast_2d(np.asarray(n, dtype=float)) for n in (yes_RxK, no_RxK))
    table = rises(tuple(x_K.tolist()))
    log_TxM = table.log_likelihood(yes_RxK, no_RxK)
    inside_T = (table.theta_T >= x_K[0]) & (table.theta_T <= x_K[-1])
    constant_R = np.array([log_constant(*row) for row in zip(yes_RxK, no_RxK, strict=True)])
    rise_R = _log_mean(log_TxM[:, inside_T])
    peak_R = log_TxM.max(axis=(1, 2), keepdims=True)
    posterior_RxT = np.exp(log_TxM - peak_R).sum(axis=2)
    found: list[Fit | None] = [None] * len(yes_RxK)
    goes_R = [row for row in range(len(yes_RxK)) if _comes_and_goes(yes_RxK[row], no_RxK[row])]
    for rows in (goes_R[i : i + _ROWS] for i in range(0, len(goes_R), _ROWS)):
        at_RxP, log_R = _band_posteriors(x_K, yes_RxK[rows], no_RxK[rows])
        for row, weight_P, band in zip(rows, at_RxP, log_R, strict=True):
            against = band - constant_R[row], band - max(rise_R[row], constant_R[row])
            if against[1] >= math.log(BAND_EVIDENCE):
                factors = [factor(log) for log in against]
                found[row] = _band(x_K, yes_RxK[row], no_RxK[row], weight_P, factors, confidence)
    for row, (yes_K, no_K) in enumerate(zip(yes_RxK, no_RxK, strict=True)):
        if found[row] is None:
            rise = factor(rise_R[row] - constant_R[row])
            low, middle, high = quantiles(table.theta_T, posterior_RxT[row], confidence)
            side, clear = _censored(x_K, yes_K, no_K, middle, rise_R[row] - constant_R[row])
            step = _step(x_K, yes_K, no_K) if side == INSIDE else None
            middle = middle if step is None else step
            found[row] = Fit(_threshold(x_K, low, middle, high, side, rise, clear))
    return [one for one in found if one is not None]


@functools.lru_cache(maxsize=32)
def rises(x_K: tuple[float, ...]) -> Rises:
    """The table of rises on a grid; theta goes `_BEYOND` typical spacings past its ends."""
    margin = _BEYOND * (float(np.median(np.diff(x_K))) if len(x_K) > 1 else 1.0)
    span = x_K[-1] - x_K[0] + 2 * margin
    number = 2 * math.ceil(span * _PER_OCTAVE / 2) + 1  # odd: the middle is one of them
    return rises_at(np.linspace(x_K[0] - margin, x_K[-1] + margin, number), np.array(x_K))


def rises_at(theta_T: np.ndarray, x_K: np.ndarray) -> Rises:
    """The table of rises with given thetas. M goes through widths first, then asymptotes."""
    rise_TxSxK = _expit((x_K - theta_T[:, None, None]) / _WIDTHS[:, None])
    lo_A, hi_A = _ASYMPTOTES.T
    p_TxSxAxK = lo_A[:, None] + (hi_A - lo_A)[:, None] * rise_TxSxK[:, :, None, :]
    p_TxMxK = p_TxSxAxK.reshape(len(theta_T), -1, len(x_K))
    return Rises(theta_T, np.log(p_TxMxK), np.log1p(-p_TxMxK))


@functools.lru_cache(maxsize=2)
def _bands(x_K: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Begins and ends (P pairs each; a begin of -inf: below the grid), the pairs' prior, and the
    log probabilities of y = 1 and y = 0, shape (P, M, K). Half of the prior is on begins below."""
    x = np.array(x_K)
    per_gap = int(np.clip(_MOST_ENDS // (len(x) - 1), 1, _PER_GAP))
    place = np.linspace(x[0], x[-1], per_gap * (len(x) - 1) + 1)
    begin, end = (place[i] for i in np.triu_indices(len(place), 1))
    begin_P = np.concatenate([np.full(len(place) - 1, -np.inf), begin])
    end_P = np.concatenate([place[1:], end])
    below_P = np.isinf(begin_P)
    prior_P = np.where(below_P, 0.5 / below_P.sum(), 0.5 / (~below_P).sum())
    up_PxSxK = _expit((x - begin_P[:, None, None]) / _BAND_WIDTHS[:, None])
    down_PxSxK = _expit((end_P[:, None, None] - x) / _BAND_WIDTHS[:, None])
    within_PxSxK = (up_PxSxK * down_PxSxK).astype(np.float32)
    p = _LAPSE + (_HIGHS[:, None] - _LAPSE).astype(np.float32) * within_PxSxK[:, :, None, :]
    p_PxMxK = p.reshape(len(begin_P), -1, len(x))
    return begin_P, end_P, prior_P, np.log(p_PxMxK), np.log1p(-p_PxMxK)


def _band_posteriors(
    x_K: np.ndarray, yes_RxK: np.ndarray, no_RxK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior weights of the pairs of `_bands`, shape (R, P), and the log likelihood of a band
    with its prior, shape (R,)."""
    _, _, prior_P, log_yes, log_no = _bands(tuple(x_K.tolist()))
    log_RxPxM = _log_likelihood(log_yes, log_no, yes_RxK, no_RxK)
    most_R = log_RxPxM.max(axis=(1, 2))
    weight_RxP = np.exp(log_RxPxM - most_R[:, None, None]).mean(axis=2) * prior_P
    return weight_RxP, np.log(weight_RxP.sum(axis=1)) + most_R


def _band(
    x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray, weight_P: np.ndarray,
    factors: Sequence[float], confidence: float,
) -> Fit:  # fmt: skip
    """Both ends of a band. `factors` are the Bayes factors of its begin and its end."""
    begin_P, end_P, *_ = _bands(tuple(x_K.tolist()))
    steps = _steps(x_K, yes_K, no_K)
    low, middle, high = quantiles(end_P, weight_P, confidence)
    middle = float(np.clip(middle if steps is None else steps[1], *x_K[[0, -1]]))
    end = _threshold(x_K, low, middle, high, INSIDE, factors[1])
    inside_P = np.isfinite(begin_P)
    below = weight_P[~inside_P].sum() / weight_P.sum()
    if below > 0.5:
        return Fit(_threshold(x_K, -math.inf, math.nan, x_K[0], BELOW, factors[0]), end)
    low, middle, high = quantiles(begin_P[inside_P], weight_P[inside_P], confidence)
    low = -math.inf if below > (1 - confidence) / 2 else low
    middle = float(np.clip(middle if steps is None else steps[0], *x_K[[0, -1]]))
    return Fit(_threshold(x_K, low, middle, high, INSIDE, factors[0]), end)


def _censored(
    x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray, middle: float, log: float
) -> tuple[str, bool]:
    """Where the begin of a phase without an end is, and whether that is clear, given theta's
    posterior median and the logarithm of the Bayes factor of a rise."""
    yes, no = yes_K.sum(), no_K.sum()
    if yes == 0 or no == 0:
        return (ABOVE if yes == 0 else BELOW), True
    clear = log >= 0 and not _is_accident(x_K, yes_K, no_K, log)
    if not clear:
        constant, hit, miss = log_constant(yes_K, no_K), math.log(1 - _LAPSE), math.log(_LAPSE)
        if no * hit + yes * miss > constant:
            return ABOVE, True  # no seed gets there, but for mistakes
        if yes * hit + no * miss > constant:
            return BELOW, True
    if log < 0:
        return UNCLEAR, False
    if _step(x_K, yes_K, no_K) is not None:
        return INSIDE, clear
    return (BELOW if middle < x_K[0] else ABOVE if middle > x_K[-1] else INSIDE), clear


def _is_accident(x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray, log: float) -> bool:
    """Whether more than `LEVEL` of the arrangements of these outcomes have such a Bayes factor.

    Where a gap parts misses from hits no other arrangement has as large a one, as every rise fits
    it best."""
    runs_K, yes = (yes_K + no_K).astype(int), int(yes_K.sum())
    if _step(x_K, yes_K, no_K) is not None:
        return 0.5 / math.comb(int(runs_K.sum()), yes) > LEVEL
    if log >= math.log(_SURE):
        return False
    log_N = _log_factors(tuple(x_K.tolist()), tuple(runs_K.tolist()), yes)
    larger, tied = (log_N > log + 1e-9).sum(), (abs(log_N - log) <= 1e-9).sum() + 1
    return bool((larger + tied / 2) / (1 + len(log_N)) > LEVEL)


@functools.lru_cache(maxsize=512)
def _log_factors(x_K: tuple[float, ...], runs_K: tuple[int, ...], yes: int) -> np.ndarray:
    """Logarithms of Bayes factors of a rise, for random arrangements of `yes` hits, always the same
    ones; shape (`_ARRANGEMENTS`,)."""
    rng = np.random.default_rng(0)
    yes_NxK = rng.multivariate_hypergeometric(runs_K, yes, size=_ARRANGEMENTS).astype(float)
    no_NxK = np.array(runs_K) - yes_NxK
    table = rises(x_K)
    inside_T = (table.theta_T >= x_K[0]) & (table.theta_T <= x_K[-1])
    inside = Rises(table.theta_T[inside_T], table.log_yes_TxMxK[inside_T],
                   table.log_no_TxMxK[inside_T])  # fmt: skip
    parts = [
        _log_mean(inside.log_likelihood(yes_NxK[rows], no_NxK[rows]))
        for rows in (slice(i, i + _ROWS) for i in range(0, _ARRANGEMENTS, _ROWS))
    ]
    return np.concatenate(parts) - log_constant(yes_NxK[0], no_NxK[0])


def _threshold(
    x_K: np.ndarray, low: float, middle: float, high: float, side: str, factor: float,
    clear: bool = True,
) -> Threshold:  # fmt: skip
    """The interval open where it leaves the grid, and as wide as the gap the estimate lies in."""
    low, _, high = cut(low, middle, high, float(x_K[0]), float(x_K[-1]))
    if side == UNCLEAR:
        return Threshold(math.nan, -math.inf, math.inf, side, factor, clear)
    if side == ABOVE:
        return Threshold(math.nan, low, math.inf, side, factor, clear)
    if side == BELOW:
        return Threshold(math.nan, -math.inf, high, side, factor, clear)
    low = min(low, x_K[x_K <= middle][-1])  # within a gap nothing is known
    high = max(high, x_K[x_K >= middle][0])
    return Threshold(float(middle), float(low), float(high), side, factor, clear)


def _comes_and_goes(yes_K: np.ndarray, no_K: np.ndarray) -> bool:
    """Whether a larger x ever has a smaller share."""
    share_K = yes_K / (yes_K + no_K)
    return bool((np.diff(share_K) < 0).any())


def _step(x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray) -> float | None:
    """The middle of the gap that parts all misses from all hits: every theta within it fits
    equally well. None where no gap does."""
    last_miss, first_hit = np.flatnonzero(no_K)[-1], np.flatnonzero(yes_K)[0]
    return float(x_K[[last_miss, first_hit]].mean()) if last_miss < first_hit else None


def _steps(x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray) -> tuple[float, float] | None:
    """The middles of the gaps at both sides of all hits, where no miss is between hits.

    Where hits begin at the smallest x, the first is that x."""
    hits = np.flatnonzero(yes_K)
    first, last = hits[0], hits[-1]
    if no_K[first : last + 1].any() or last == len(x_K) - 1:
        return None
    return float(x_K[max(first - 1, 0) : first + 1].mean()), float(x_K[last : last + 2].mean())


def quantiles(
    value: np.ndarray, weight: np.ndarray, confidence: float
) -> tuple[float, float, float]:
    """Low end, median and high end of weighted values, the tails equal.

    Each value's weight is spread evenly up to half-way to its neighbours, and beyond the smallest
    and the largest by as much as on their other side. So values of a grid stand for all places
    that are nearest to them. A single value is all three.

    Args:
        value, weight: shape (n,), in any order; a value may be there several times.
        confidence: the weight between both ends.
    """
    place, at = np.unique(value, return_inverse=True)
    half = np.diff(place) / 2 if len(place) > 1 else np.zeros(1)
    edges = np.concatenate([[place[0] - half[0]], place[:-1] + half[: len(place) - 1],
                            [place[-1] + half[-1]]])  # fmt: skip
    cumulative = np.concatenate([[0.0], np.cumsum(np.bincount(at.ravel(), weight))])
    wanted = [(1 - confidence) / 2, 0.5, (1 + confidence) / 2]
    low, middle, high = np.interp(wanted, cumulative / cumulative[-1], edges)
    return float(low), float(middle), float(high)


def cut(
    low: float, middle: float, high: float, first: float, last: float
) -> tuple[float, float, float]:
    """(low, middle, high) as a grid from `first` to `last` can say them: ends beyond it are open
    (-inf, inf), or at its edge where the whole interval is on the other side; a middle beyond it is
    NaN."""
    return (
        -math.inf if low < first else min(low, last),
        middle if first <= middle <= last else math.nan,
        math.inf if high > last else max(high, first),
    )


def _log_likelihood(
    log_yes_PxMxK: np.ndarray, log_no_PxMxK: np.ndarray, yes_RxK: np.ndarray, no_RxK: np.ndarray
) -> np.ndarray:
    shape, number = log_yes_PxMxK.shape[:2], log_yes_PxMxK.shape[2]
    yes, no = (n_RxK.astype(log_yes_PxMxK.dtype) for n_RxK in (yes_RxK, no_RxK))
    log_RxPM = yes @ log_yes_PxMxK.reshape(-1, number).T + no @ log_no_PxMxK.reshape(-1, number).T
    return log_RxPM.reshape(len(yes_RxK), *shape)


def _log_mean(log_RxTxM: np.ndarray) -> np.ndarray:
    """log of the mean of exp over all but the first axis, shape (R,)."""
    most_R = log_RxTxM.max(axis=(1, 2))
    return most_R + np.log(np.exp(log_RxTxM - most_R[:, None, None]).mean(axis=(1, 2)))


def log_constant(yes_K: np.ndarray, no_K: np.ndarray) -> float:
    """Log likelihood of a constant share, averaged over shares: a beta function's logarithm."""
    yes, no = yes_K.sum() + 1.0, no_K.sum() + 1.0
    return math.lgamma(yes) + math.lgamma(no) - math.lgamma(yes + no)


def factor(log: float) -> float:
    """A Bayes factor of its logarithm, below the largest float."""
    return math.exp(min(log, 700.0))


def _expit(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -500, 500)))
