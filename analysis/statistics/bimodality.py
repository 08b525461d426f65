"""Are values from one mode or from several? The dip test of Hartigan & Hartigan (1985).

The dip is the largest distance between the sample's distribution function and the closest unimodal
one (Annals of Statistics 13:70). Its p-value is against uniform values, the unimodal case that is
hardest to tell from several modes: a gradual transition, passing through all accuracies evenly, is
the null hypothesis.
"""

from __future__ import annotations

import functools

import numpy as np

FEWEST = 8  # values below which even two clean clusters say little
_SIMULATIONS = 9999  # so that a p of 0.05 is within 0.005


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
