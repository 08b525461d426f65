"""Are values from one mode or from several? The dip test of Hartigan & Hartigan (1985).

The dip is the largest distance between the sample's distribution function and the closest unimodal
one (Annals of Statistics 13:70). Its p-value is against uniform values, the unimodal case that is
hardest to tell from several modes: a gradual transition, passing through all accuracies evenly, is
the null hypothesis.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 8  # values below which even two clean clusters say little
LEAST_RANGE = (
    0.1  # of accuracies at a grid point: where seeds differ less, they say nothing of modes
)
LEVEL = 0.05  # at which the power is told
MODE_WIDTH = 0.1  # deviation within each of two modes at 0 and 1 for which the power is told
_SIMULATIONS = 9999  # so that a p of 0.05 is within 0.005
_POOLED_SIMULATIONS = 999  # so that a p of 0.05 is within 0.014


@dataclass(frozen=True)
class Pooled:
    """A dip test of seeds at several grid points.

    Attributes:
        values: how many, of all grid points used.
        dip, p: as from `dip_test`, the p-value is the larger one against
            seeds that are uniform over all of the headroom, and over a range of each grid point's
            own, chosen in the same way.
        power: the chance of a p of at most `LEVEL` if each seed were in one of two modes, equally
            often, with a deviation of `MODE_WIDTH` of their distance.
    """

    values: int
    dip: float
    p: float
    power: float


def pooled_test(values: np.ndarray, point: np.ndarray, least: np.ndarray) -> Pooled | None:
    """Are seeds in two modes, over all grid points whose seeds differ enough?

    Args:
        values: of seeds, scaled so that 0 and 1 mean the same at all grid points, shape (n,).
        point: the grid point of each, shape (n,).
        least: range below which a seed's grid point is left out, in scaled values, shape (n,).

    Returns:
        None where fewer than `FEWEST` values are left.
    """
    used = [values[point == one] for one in np.unique(point)]
    ranges = [float(least[point == one][0]) for one in np.unique(point)]
    kept = [(v, r) for v, r in zip(used, ranges, strict=True) if len(v) > 1 and np.ptp(v) >= r]
    pooled = np.concatenate([v for v, _ in kept]) if kept else np.empty(0)
    if len(pooled) < FEWEST:
        return None
    shape = tuple(sorted((len(v), round(r, 3)) for v, r in kept))
    rng = np.random.default_rng(0)
    nulls = [_dips_of([_unimodal(rng, v, r) for v, r in kept]), _uniform(shape)]
    found = dip(pooled)
    p = max((1 + (null >= found - 1e-12).sum()) / (1 + len(null)) for null in nulls)
    power = (_modes(shape) > max(np.quantile(null, 1 - LEVEL) for null in nulls)).mean()
    return Pooled(len(pooled), found, float(p), float(power))


def _unimodal(rng: np.random.Generator, value_S: np.ndarray, least: float) -> np.ndarray:
    """Samples of a grid point's seeds if they were uniform over a range of their own, (N, S).

    The range is the unbiased estimate (S + 1) / (S - 1) times as wide as theirs, cut at 0 and 1,
    between which scaled values lie. So grid points that differ in their one mode are not taken
    for two modes."""
    middle = (value_S.min() + value_S.max()) / 2
    half = np.ptp(value_S) / 2 * (len(value_S) + 1) / (len(value_S) - 1)
    low = min(max(middle - half, 0.0), value_S.min())
    high = max(min(middle + half, 1.0), value_S.max())
    return _chosen(lambda size: rng.uniform(low, high, size), len(value_S), least)


@functools.lru_cache(maxsize=64)
def _uniform(shape: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Dips of uniform seeds at grid points of so many seeds and such a least range each."""
    rng = np.random.default_rng(2)
    return _dips_of([_chosen(rng.random, seeds, least) for seeds, least in shape])


@functools.lru_cache(maxsize=64)
def _modes(shape: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Dips of seeds in two modes at grid points of so many seeds and such a least range each."""
    rng = np.random.default_rng(1)

    def draw(size: tuple[int, int]) -> np.ndarray:
        return rng.integers(0, 2, size) + rng.normal(0, MODE_WIDTH, size)

    return _dips_of([_chosen(draw, seeds, least) for seeds, least in shape])


def _chosen(draw: Callable[[tuple[int, int]], np.ndarray], seeds: int, least: float) -> np.ndarray:
    """Samples of seeds, shape (N, S), drawn until they differ enough."""
    value_NxS = draw((_POOLED_SIMULATIONS, seeds))
    for _ in range(100):
        again = np.flatnonzero(np.ptp(value_NxS, axis=1) < least)
        if not len(again):
            break
        value_NxS[again] = draw((len(again), seeds))
    return value_NxS


def _dips_of(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Of each pooled sample; samples by grid point, (N, S) each."""
    return np.array([dip(sample) for sample in np.concatenate(samples, axis=1)])


def dip_test(values: np.ndarray) -> tuple[float, float]:
    """The dip and its p-value, the share of uniform samples whose dip is at least as large.

    Args:
        values: shape (n,), n >= 4.
    """
    found = dip(values)
    null = _null_dips(len(values))
    return found, float((1 + (null >= found - 1e-12).sum()) / (1 + len(null)))


@functools.lru_cache(maxsize=64)
def _null_dips(n: int) -> np.ndarray:
    """Dips of uniform samples of n values, always the same ones, so that a p-value repeats."""
    samples = np.random.default_rng(0).random((_SIMULATIONS, n))
    return np.array([dip(sample) for sample in samples])


def dip(values: np.ndarray) -> float:
    """Hartigans' dip statistic; of n equal values 1 / 2n, the least that n values can have.

    Args:
        values: shape (n,).
    """
    import diptest  # here, as few sweeps need it

    return float(diptest.dipstat(np.asarray(values, dtype=float), allow_zero=False))
