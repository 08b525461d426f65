"""How many seeds place a transition to within an octave, told before a sweep is trained.

Sweeps are simulated on the grid's numbers of tasks and fitted as `analysis` fits them
(`core.thresholds`): all seeds reach the phase in the end, over about two octaves (s = `SHARPNESS`),
at a place that is equally likely anywhere between the grid's ends but its outer sixths. How wide
the intervals are is their median width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from metaphase.core.cell import Cell
from metaphase.core.thresholds import fit

GOAL = 1.0  # octaves
CONFIDENCE = 0.95
SHARPNESS = 0.5  # s of the simulated transitions, octaves
MOST = 20  # seeds that are tried
FEWEST = 3  # numbers of tasks without which there is nothing to place
_SIMULATIONS = 60


@functools.lru_cache(maxsize=64)
def median_width(x_K: tuple[float, ...], seeds: int) -> float:
    """Octaves between the ends of an interval; inf where half of them are open.

    Args:
        x_K: log2 numbers of tasks, ascending.
        seeds: of each.
    """
    x, rng = np.array(x_K), np.random.default_rng(0)
    margin = (x[-1] - x[0]) / 6
    theta_R = rng.uniform(x[0] + margin, x[-1] - margin, _SIMULATIONS)
    p_RxK = 1 / (1 + np.exp(-(x - theta_R[:, None]) / SHARPNESS))
    yes_RxK = rng.binomial(seeds, p_RxK)
    found = [one.begin for one in fit(x, yes_RxK, seeds - yes_RxK, CONFIDENCE)]
    return float(np.median([at.high - at.low for at in found]))


def needed(x_K: tuple[float, ...], goal: float = GOAL) -> int | None:
    """The fewest seeds whose intervals are that narrow, at most `MOST`; None: no number is."""
    if median_width(x_K, MOST) > goal:
        return None
    few, enough = 0, MOST  # the width falls as seeds grow: halve what is between
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if median_width(x_K, middle) <= goal else (middle, enough)
    return enough


def line(cells: Iterable[Cell]) -> str | None:
    """What the seeds of a grid can tell of where phases begin; None if it has too few numbers of
    tasks."""
    cells = list(cells)
    tasks, seeds = sorted({cell.num_tasks for cell in cells}), len({cell.seed for cell in cells})
    if len(tasks) < FEWEST:
        return None
    x_K = tuple(np.log2(np.array(tasks, dtype=float)).tolist())
    width, found = median_width(x_K, seeds), needed(x_K)
    span = f"about {width:.1f} octaves wide" if np.isfinite(width) else "open at an end"
    told = (
        f"a transition's {CONFIDENCE:.0%} interval is {span} with {seeds} seed{'s' * (seeds != 1)}"
    )
    if found is not None:
        return f"{told}; one octave takes {found}"
    finest = median_width(x_K, MOST)
    reached = f"{finest:.1f} octaves" if np.isfinite(finest) else "open ends"
    return f"{told}; {MOST} bring it to {reached}, one octave takes more numbers of tasks"
