"""Where, as the number of tasks grows, a model of a given size changes phase.

Generalizing begins at the number of tasks where the generalizing phase takes over; identifying
begins where phases leave memorizing (identifying or generalizing take over). Both are thresholds of
a seed's yes-or-no outcome y ("at least this phase") against x = log2 N, as in psychometrics:

    P(y = 1 | x) = lo + (hi - lo) / (1 + exp(-(x - theta) / s))

The asymptotes below 1 and above 0 are Wichmann & Hill's lapses (2001, Perception & Psychophysics
63:1293): a seed that never trained, or a model size at which only some seeds ever generalize,
doesn't drag theta along. Inference is Bayesian (Kuss, Jaekel & Wichmann 2005, Journal of Vision
5:478) with flat priors on theta, log s and hi: the estimate is theta's posterior median, the
interval goes from the (1-c)/2 to the (1+c)/2 quantile. Where outcomes separate perfectly, as they
often do, maximum likelihood has no finite s and theta is anywhere in a gap of the grid; the
posterior's median is then near the gap's middle. An interval always spans the gap that its estimate
lies in, because nothing was trained there. In simulations of grids with 2 or 3 seeds (see
tests/analysis/statistics/test_transitions.py) 95% intervals hold the true theta 92 to 100% of the
time.

The posterior is summed over a grid of parameters: no starting values, no failure to converge, no
randomness. Cells that diverged or failed say nothing about the phase and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema
from metaphase.core.phases import GENERALIZING, IDENTIFYING

BEGINS = (IDENTIFYING, GENERALIZING)  # the phases whose beginning is estimated

# Values of censored
INSIDE = ""  # the estimate lies within the grid
BELOW = "below"  # the phase has begun at the smallest number of tasks
ABOVE = "above"  # it has not begun at the largest
UNCLEAR = "unclear"  # it comes and goes: outcomes fit a constant share better than any rise

# Grid of the posterior: flat in theta, log s and hi
_RESOLUTION = 1 / 8  # of theta, in log2 N
_BEYOND = 2  # theta may lie this many spacings outside the grid, where it counts as censored
_WIDTHS = np.geomspace(1 / 8, 4, 6)  # s, in log2 N: from a step to a rise over most of a grid
_LOW = 0.01  # lo: a cell below the transition that reached the phase by mistake
_HIGH = np.array([0.99, 0.9, 0.75, 0.6])  # hi: share of seeds that reach the phase in the end


@dataclass(frozen=True)
class Threshold:
    """An estimate in log2 number of tasks. Open ends of the interval are -inf and inf."""

    estimate: float  # NaN if censored
    low: float
    high: float
    censored: str  # one of INSIDE, BELOW, ABOVE, UNCLEAR


def estimate_transitions(classified: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """The log2 number of tasks at which identifying and generalizing begin, per model size.

    Args:
        classified: cells with `phase`, of one condition, as from
            `analysis.statistics.phases.classify`.

    Returns:
        A row for each (architecture, model_size) and phase in `BEGINS`: `begins` (the phase),
        `log2_num_tasks` (NaN if censored), `low`, `high` (-inf, inf where open), `censored`,
        `smallest` and `largest` (log2 numbers of tasks of the cells used), `cells` (how many).

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    rows = []
    for (architecture, size), group in done.groupby(["architecture", "model_size"]):
        x = np.log2(group["num_tasks"].to_numpy(dtype=float))
        for phase in BEGINS:
            found = threshold(x, (group["phase"] >= phase).to_numpy(), confidence)
            rows.append(
                (architecture, size, phase, found.estimate, found.low, found.high,
                 found.censored, x.min(), x.max(), len(x))
            )  # fmt: skip
    columns = ["architecture", "model_size", "begins", "log2_num_tasks", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "censored", "smallest", "largest", "cells"])


def threshold(x: np.ndarray, reached: np.ndarray, confidence: float = CONFIDENCE) -> Threshold:
    """Where P(reached) has risen half-way between its asymptotes.

    Args:
        x: log2 number of tasks of each run, shape (runs,), at least one.
        reached: whether the run reached the phase, shape (runs,), bool.
        confidence: posterior probability of the interval (at least, see above), its tails equal.
    """
    x_K, inverse = np.unique(x, return_inverse=True)
    yes_K = np.bincount(inverse, weights=reached)
    no_K = np.bincount(inverse) - yes_K
    first, last = x_K[0], x_K[-1]
    beyond = _BEYOND * (np.median(np.diff(x_K)) if len(x_K) > 1 else 1.0)
    theta_T = np.arange(first - beyond, last + beyond + _RESOLUTION / 2, _RESOLUTION)
    log_likelihood_TxM = _log_likelihood(theta_T, x_K, yes_K, no_K)

    posterior_T = np.exp(log_likelihood_TxM - log_likelihood_TxM.max()).sum(axis=1)
    cumulative_T = np.cumsum(posterior_T / posterior_T.sum())
    tail = (1 - confidence) / 2
    low, middle, high = theta_T[np.searchsorted(cumulative_T, [tail, 0.5, 1 - tail])]
    low, high = low - _RESOLUTION / 2, high + _RESOLUTION / 2  # the whole step counts as inside
    low = -np.inf if low < first else low
    high = np.inf if high > last else high

    share = yes_K.sum() / len(x)
    without_rise = special.xlogy(yes_K, share).sum() + special.xlogy(no_K, 1 - share).sum()
    if log_likelihood_TxM.max() <= without_rise and 0.25 <= share <= 0.75:
        return Threshold(np.nan, -np.inf, np.inf, UNCLEAR)
    if share == 0 or middle > last:
        return Threshold(np.nan, float(min(low, last)), np.inf, ABOVE)
    if share == 1 or middle < first:
        return Threshold(np.nan, -np.inf, float(max(high, first)), BELOW)
    low = min(low, x_K[x_K <= middle][-1])  # within a gap nothing is known
    high = max(high, x_K[x_K >= middle][0])
    return Threshold(float(middle), float(low), float(high), INSIDE)


def _log_likelihood(
    theta_T: np.ndarray, x_K: np.ndarray, yes_K: np.ndarray, no_K: np.ndarray
) -> np.ndarray:
    """At each theta (T) and each width and upper asymptote (M), given counts at K values of x."""
    rise_TxSxK = special.expit((x_K - theta_T[:, None, None]) / _WIDTHS[:, None])
    p_TxSxAxK = _LOW + (_HIGH[:, None] - _LOW) * rise_TxSxK[:, :, None, :]
    log_likelihood_TxSxA = np.log(p_TxSxAxK) @ yes_K + np.log1p(-p_TxSxAxK) @ no_K
    return log_likelihood_TxSxA.reshape(len(theta_T), -1)
