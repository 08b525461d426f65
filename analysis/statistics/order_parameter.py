"""Accuracy on unseen tasks as an order parameter: its mean and variance over seeds, and what
physics reads off such curves.

- The variance over seeds peaks where seeds disagree most. Its place has an interval from the
  bootstrap over seeds (Efron 1979, Annals of Statistics 7:1), which draws the same seeds at all
  numbers of tasks, as a seed is the same tasks everywhere. Samples that hold a single seed have no
  variance and are left out.
- Curves of several model sizes may be one curve, m = f(log2 N - b log2 size). b is where the
  quality of the collapse, Houdayer & Hartmann's S (2004, Physical Review B 70:014418), is best: the
  mean squared distance of points from the line through their neighbours of the other sizes, in
  units of its error. S near 1: one curve within errors; far above: several.
- Where curves of two training budgets cross, more training begins to help on new tasks: below it
  makes them worse (Raventos et al. 2023, arXiv 2306.15063). It is read off the loss, which moves
  also where accuracy stays at chance. Its interval holds the places where a t test over seeds
  can't tell the gain from 0: from the last place where training surely hurts to the first one after
  it where it surely helps.

How often these intervals hold the truth: docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.intervals import CONFIDENCE, t_half_width
from metaphase.analysis.statistics.phases import POINT, require_one_condition
from metaphase.analysis.statistics.transitions import usable_cells
from metaphase.core import schema
from metaphase.core.thresholds import ABOVE, BELOW, INSIDE, quantiles

FEWEST_SEEDS = 3  # for an interval by the bootstrap
FEWEST_TASKS = 3
_RESAMPLES = 999
_EXPONENTS = np.linspace(-3, 3, 61)  # that are tried
_BETWEEN = 32  # places that are looked at between two numbers of tasks
_LEAST_OVERLAP = 0.5  # share of the points that have neighbours of other sizes on both sides


def order_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Mean and variance over seeds of the accuracy on unseen tasks.

    Returns:
        A row a grid point with cells that say something (`transitions.usable_cells`):
        architecture, model_size, num_tasks, `mean`, `variance` (n - 1 degrees of freedom; NaN
        with one seed), `error` (of the mean: over seeds, at least that over sequences), `seeds`.

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    require_one_condition(classified)
    cells = usable_cells(classified)
    squares = cells["unseen_last_se"].astype(float) ** 2
    groups = cells.assign(squares=squares).groupby(["architecture", "model_size", "num_tasks"])
    value = groups["unseen_last"]
    table = pd.DataFrame(
        {"mean": value.mean(), "variance": value.var(), "seeds": value.count(),
         "squares": groups["squares"].sum()}
    )  # fmt: skip
    sequences = np.sqrt(table.pop("squares")) / table["seeds"]
    over_seeds = np.sqrt(table["variance"].fillna(0.0) / table["seeds"])
    table["error"] = np.maximum(over_seeds, sequences)
    return table[["mean", "variance", "error", "seeds"]].reset_index()


def variance_peaks(classified: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Where the variance over seeds of the accuracy on unseen tasks is largest.

    Returns:
        A row for each (architecture, model_size) with two seeds or more at `FEWEST_TASKS` numbers
        of tasks: `log2_num_tasks` of the largest variance, `low` and `high` (bootstrap percentiles;
        NaN with fewer than `FEWEST_SEEDS` seeds), `variance` there, `seeds`.

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    require_one_condition(classified)
    rows = []
    for key, cells in usable_cells(classified).groupby(["architecture", "model_size"]):
        value_1xSxK, _, every_K = _cube(cells.assign(step=0, loss=cells["unseen_last"]))
        value_SxK, there_K = _complete(value_1xSxK[0])
        if value_SxK.shape[0] < 2 or value_SxK.shape[1] < FEWEST_TASKS:
            continue
        x_K, variance_K = every_K[there_K], value_SxK.var(axis=0, ddof=1)
        peak = int(variance_K.argmax())
        low = high = np.nan
        if len(value_SxK) >= FEWEST_SEEDS:
            drawn_NxS = _resamples(len(value_SxK))
            several_N = (drawn_NxS != drawn_NxS[:, :1]).any(axis=1)
            samples_NxSxK = value_SxK[drawn_NxS[several_N]]
            peaks_N = samples_NxSxK.var(axis=1).argmax(axis=1)
            low, _, high = quantiles(x_K, np.bincount(peaks_N, minlength=len(x_K)), confidence)
            low, high = max(low, x_K[0]), min(high, x_K[-1])
        rows.append((*key, x_K[peak], low, high, variance_K[peak], len(value_SxK)))
    columns = ["architecture", "model_size", "log2_num_tasks", "low", "high", "variance", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def collapse(order: pd.DataFrame) -> pd.DataFrame:
    """The exponent at which the curves of all sizes fall on one.

    Args:
        order: from `order_table`.

    Returns:
        A row for each architecture with three model sizes or more: `exponent`, `low` and `high`
        (where S is within 1 of its least; -inf, inf where that goes on to the last exponent that
        is tried, -3 or 3), `quality` (S there), `unshifted` (S at exponent 0), `sizes`.
    """
    rows = []
    for architecture, points in order.groupby("architecture"):
        sizes = points["model_size"].nunique()
        if sizes < 3 or points["num_tasks"].nunique() < FEWEST_TASKS:
            continue
        size, tasks = (np.log2(points[axis].to_numpy(dtype=float)) for axis in POINT)
        y, error = points["mean"].to_numpy(), points["error"].to_numpy()
        quality_B = np.array([
            _quality(size, tasks - exponent * (size - size.mean()), y, error)
            for exponent in _EXPONENTS
        ])  # fmt: skip
        if np.isnan(quality_B).all():
            continue
        best = int(np.nanargmin(quality_B))
        near = _EXPONENTS[quality_B <= quality_B[best] + 1]
        low = near[0] if near[0] > _EXPONENTS[0] else -np.inf
        high = near[-1] if near[-1] < _EXPONENTS[-1] else np.inf
        unshifted = quality_B[len(_EXPONENTS) // 2]
        rows.append((architecture, _EXPONENTS[best], low, high, quality_B[best], unshifted, sizes))
    columns = ["architecture", "exponent", "low", "high", "quality", "unshifted", "sizes"]
    return pd.DataFrame(rows, columns=columns)


def budget_crossings(
    cells: pd.DataFrame, history: pd.DataFrame, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """The number of tasks from which on more training helps on new tasks.

    Budgets are the steps that all cells were evaluated at, but step 0; each is compared with the
    last one.

    Args:
        cells: of one condition, with `phase`.
        history: as from `analysis.load.load_history`.

    Returns:
        A row for each (architecture, model_size), `step` and `later` step: `log2_num_tasks` from
        which on the mean over seeds of loss(step) - loss(later) on unseen tasks stays above 0
        (straight lines between numbers of tasks; NaN where `censored` isn't `INSIDE`), its t
        interval `low` and `high` (-inf, inf where open; NaN with one seed), `censored` (of
        `core.thresholds`: `BELOW` where the gain is above 0 everywhere, `ABOVE` where it isn't at
        the largest number), `seeds`.
    """
    require_one_condition(cells)
    used = usable_cells(cells)[["cell_id", "architecture", "model_size", "num_tasks", "seed"]]
    losses = history.loc[history["split"] == schema.UNSEEN, ["cell_id", "step", "loss"]]
    losses = used.merge(losses.dropna(), on="cell_id")
    rows = []
    for key, group in losses.groupby(["architecture", "model_size"]):
        value_BxSxK, steps, x_K = _cube(group)
        evaluated_B = np.isfinite(value_BxSxK).sum(axis=(1, 2))
        all_there = (evaluated_B == evaluated_B.max()) & (steps > 0)
        value_BxSxK, steps = value_BxSxK[all_there], steps[all_there]
        for step, early_SxK in zip(steps[:-1], value_BxSxK[:-1], strict=True):
            gain, there_K = _complete(early_SxK - value_BxSxK[-1])
            if gain.shape[0] < 1 or gain.shape[1] < FEWEST_TASKS:
                continue
            of_K = x_K[there_K]
            place = _last_crossing(of_K, gain.mean(axis=0))
            side = INSIDE if np.isfinite(place) else BELOW if place < 0 else ABOVE
            low, high = _crossing_interval(of_K, gain, place, confidence)
            inside = place if side == INSIDE else np.nan
            rows.append((*key, step, steps[-1], inside, low, high, side, len(gain)))
    columns = ["architecture", "model_size", "step", "later", "log2_num_tasks", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "censored", "seeds"])


def _cube(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column `loss` by step (B), seed (S) and number of tasks (K), NaN where there is none; the
    steps, ascending; and log2 of the numbers of tasks."""
    steps, at_step = np.unique(rows["step"].to_numpy(), return_inverse=True)
    seeds, at_seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    tasks, at_tasks = np.unique(rows["num_tasks"].to_numpy(dtype=float), return_inverse=True)
    value_BxSxK = np.full((len(steps), len(seeds), len(tasks)), np.nan)
    value_BxSxK[at_step, at_seed, at_tasks] = rows["loss"].to_numpy(dtype=float)
    return value_BxSxK, steps, np.log2(tasks)


def _complete(value_SxK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the seeds that have more than half of them, at those numbers of tasks that all of
    these seeds have, and which those are."""
    value_SxK = value_SxK[np.isfinite(value_SxK).mean(axis=1) > 0.5]
    there_K = np.isfinite(value_SxK).all(axis=0)
    return value_SxK[:, there_K], there_K


def _resamples(seeds: int) -> np.ndarray:
    """Indices of bootstrap samples, shape (`_RESAMPLES`, seeds), always the same ones."""
    return np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))


def _last_crossing(x_K: np.ndarray, gain_K: np.ndarray) -> float:
    """From where on the line through the points stays above 0; -inf: always, inf: not at last."""
    below = np.flatnonzero(gain_K < 0)
    if not len(below):
        return -np.inf
    k = below[-1]
    if k == len(x_K) - 1:
        return np.inf
    left, right = gain_K[k], gain_K[k + 1]
    return float(x_K[k] + (x_K[k + 1] - x_K[k]) * left / (left - right))


def _crossing_interval(
    x_K: np.ndarray, gain_SxK: np.ndarray, place: float, confidence: float
) -> tuple[float, float]:
    """The last place where the gain is surely below 0, and the first one after it (and after
    `place`) where it is surely above: by t tests over seeds of the lines through their points."""
    if len(gain_SxK) < 2:
        return np.nan, np.nan
    at_F = np.interp(np.arange((len(x_K) - 1) * _BETWEEN + 1) / _BETWEEN, np.arange(len(x_K)), x_K)
    gain_SxF = np.stack([np.interp(at_F, x_K, gain_K) for gain_K in gain_SxK])
    mean_F = gain_SxF.mean(axis=0)
    half_F = t_half_width(gain_SxF.std(axis=0, ddof=1), len(gain_SxK), confidence)
    hurts, helps = at_F[mean_F + half_F < 0], at_F[mean_F - half_F > 0]
    low = hurts[-1] if len(hurts) else -np.inf
    helps = helps[helps >= max(low, place)]
    return float(low), float(helps[0]) if len(helps) else np.inf


def _quality(size: np.ndarray, x: np.ndarray, y: np.ndarray, error: np.ndarray) -> float:
    """Houdayer & Hartmann's S with straight lines between a size's neighbouring points; NaN where
    curves hardly overlap.

    Args:
        size: that tells curves apart, of each point, shape (points,) as are all.
        x, y, error: the point's place after the shift, and its error along y.
    """
    weight_sum, mean_sum = np.zeros(len(x)), np.zeros(len(x))
    for one in np.unique(size):
        own = np.flatnonzero(size == one)
        own = own[np.argsort(x[own])]
        if len(own) < 2:
            continue
        left = np.clip(np.searchsorted(x[own], x) - 1, 0, len(own) - 2)
        a, b = own[left], own[left + 1]
        part = (x - x[a]) / (x[b] - x[a])
        there = (part >= 0) & (part <= 1) & (size != one)
        variance = (1 - part) ** 2 * error[a] ** 2 + part**2 * error[b] ** 2
        weight = np.where(there, 1 / np.maximum(variance, 1e-12), 0.0)
        weight_sum += weight
        mean_sum += weight * ((1 - part) * y[a] + part * y[b])
    there = weight_sum > 0
    if there.mean() < _LEAST_OVERLAP:
        return np.nan
    master = mean_sum[there] / weight_sum[there]
    return float(((y[there] - master) ** 2 / (error[there] ** 2 + 1 / weight_sum[there])).mean())
