"""Are values from one mode or from several? The dip test of Hartigan & Hartigan (1985).

The dip is the largest distance between the sample's distribution function and the closest unimodal
one. Its p-value is against uniform values, the unimodal case that is hardest to tell from several
modes: a gradual transition, passing through all accuracies evenly, is the null hypothesis.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

FEWEST = 8  # values below which even two clean clusters say little
_SIMULATIONS = 9999  # so that a p of 0.05 is within 0.005


def dip_test(values: np.ndarray) -> tuple[float, float]:
    """The dip and its p-value, the share of uniform samples whose dip is at least as large.

    Args:
        values: shape (n,), n >= 4.
    """
    found = dip(values)
    null = _null(len(values))
    return found, float((1 + (null >= found - 1e-12).sum()) / (1 + len(null)))


@functools.lru_cache(maxsize=64)
def _null(n: int) -> np.ndarray:
    samples = np.random.default_rng(0).random((_SIMULATIONS, n))
    return np.array([dip(sample) for sample in samples])


def dip(values: np.ndarray) -> float:
    """Hartigans' dip statistic, by their algorithm AS 217 (1985, Applied Statistics 34:320).

    Candidates for the modal interval [low, high] shrink: in it the greatest convex minorant of the
    distribution function is compared with the least concave majorant; outside, the function with
    the minorant on the left and with the majorant on the right.
    """
    x = np.sort(np.asarray(values, dtype=float)).tolist()
    n = len(x)
    below, above = _hulls(x)
    low, high, found = 0, n - 1, 1.0  # distances in units of 1 / 2n
    while True:
        minorant = _chain(high, low, below)[::-1]  # touching points, ascending
        majorant = _chain(low, high, above)
        gap, left, right = _widest(x, minorant, majorant)
        if gap < found:
            return found / (2 * n)
        for chain, side in ((minorant[: left + 1], 1), (majorant[right:], -1)):
            for a, b in itertools.pairwise(chain):
                if b - a > 1 and x[b] > x[a]:
                    slope = (b - a) / (x[b] - x[a])
                    distances = (side * ((k - a) - (x[k] - x[a]) * slope) for k in range(a, b + 1))
                    found = max(found, 1 + max(distances))
        if (low, high) == (minorant[left], majorant[right]):
            return found / (2 * n)
        low, high = minorant[left], majorant[right]


def _hulls(x: list[float]) -> tuple[list[int], list[int]]:
    """For each point, the next touching point to its left on the convex minorant that ends there,
    and to its right on the concave majorant that begins there."""

    def hull(order: range) -> list[int]:
        to = [order[0]] * len(x)
        for previous, j in itertools.pairwise(order):
            to[j] = previous
            while True:
                k = to[j]
                if k == order[0] or (x[j] - x[k]) * (k - to[k]) < (x[k] - x[to[k]]) * (j - k):
                    break
                to[j] = to[k]
        return to

    return hull(range(len(x))), hull(range(len(x) - 1, -1, -1))


def _chain(start: int, end: int, to: list[int]) -> list[int]:
    chain = [start]
    while chain[-1] != end:
        chain.append(to[chain[-1]])
    return chain


def _widest(x: list[float], minorant: list[int], majorant: list[int]) -> tuple[float, int, int]:
    """Largest distance between the two, at touching points, in units of 1 / n with the step of the
    distribution function; and the touching points (their numbers) left and right of where it is."""
    if len(minorant) == len(majorant) == 2:
        return 1.0, 0, 1
    best, left, right = 0.0, 0, len(majorant) - 1
    i = j = 1
    while True:
        a, b = minorant[i], majorant[j]
        if a > b:  # the majorant touches at b, between two touching points of the minorant
            c = minorant[i - 1]
            distance = (b - c + 1) - (x[b] - x[c]) * (a - c) / (x[a] - x[c])
            j += 1
            if distance >= best:
                best, left, right = distance, i - 1, j - 1
        else:
            c = majorant[j - 1]
            distance = (x[a] - x[c]) * (b - c) / (x[b] - x[c]) - (a - c - 1)
            i += 1
            if distance >= best:
                best, left, right = distance, i - 1, j
        i, j = min(i, len(minorant) - 1), min(j, len(majorant) - 1)
        if minorant[i] == majorant[j]:
            return best, left, right
