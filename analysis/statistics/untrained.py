"""What is expected of the points of a grid that a search (docs/search.md) didn't train: by the
posterior of where phases begin that the search itself goes by, `core.joint_thresholds`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.phases import POINT, require_one_condition
from metaphase.analysis.statistics.transitions import counts, usable_cells
from metaphase.core import joint_thresholds, schema
from metaphase.core.joint_thresholds import Outcomes
from metaphase.core.phases import GENERALIZING, IDENTIFYING, MEMORIZING

COLUMNS = [*POINT, "phase", "share"]


def expected(
    classified: pd.DataFrame, grid: pd.DataFrame | None, condition: Mapping[str, object]
) -> pd.DataFrame | None:
    """The phase that each untrained point of a condition's grid most probably has.

    Args:
        classified: cells of the condition, as from `analysis.statistics.phases.classify`.
        grid: all cells that the search may train, as from `analysis.load.load_grid`; None: it is no
            search.
        condition: see `analysis.statistics.phases.split_conditions`.

    Returns:
        model_size, num_tasks, `phase` (memorizing stands for all below identifying) and `share`,
        its probability: a seed's. No rows where no cell tells of phases yet; None without a grid.

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    if grid is None:
        return None
    require_one_condition(classified)
    points = grid[_of_condition(grid, classified, condition)][POINT].drop_duplicates()
    there = pd.MultiIndex.from_frame(classified[POINT])
    usable = usable_cells(classified)
    if points.empty or usable.empty or points["num_tasks"].nunique() < 2:
        return pd.DataFrame(columns=COLUMNS)
    points = points.sort_values(POINT, ignore_index=True)
    at_least = [_shares(usable, points, phase) for phase in (IDENTIFYING, GENERALIZING)]
    identifying = np.maximum(*at_least)
    each = np.stack([1 - identifying, identifying - at_least[1], at_least[1]])
    best = each.argmax(axis=0)
    names = np.array([MEMORIZING, IDENTIFYING, GENERALIZING], dtype=object)
    found = points.assign(phase=names[best], share=each.max(axis=0))
    return found[~pd.MultiIndex.from_frame(found[POINT]).isin(there)].reset_index(drop=True)


def _of_condition(
    grid: pd.DataFrame, classified: pd.DataFrame, condition: Mapping[str, object]
) -> np.ndarray:
    """Which cells of the grid belong to the condition; shape (cells of the grid,)."""
    same = np.ones(len(grid), dtype=bool)
    of = {"architecture": classified["architecture"].iloc[0], **condition}
    for key, value in of.items():
        if key in grid:
            column, wanted = grid[key], pd.Series([schema.to_column(value)])
            there = column.isna() if wanted.isna().all() else column == wanted[0]
            same &= there.to_numpy(dtype=bool)
    return same


def _shares(usable: pd.DataFrame, points: pd.DataFrame, phase: str) -> np.ndarray:
    """The probability that a seed at each point has at least this phase, shape (points,)."""
    x_K = np.log2(np.unique(points["num_tasks"].to_numpy(dtype=float)))
    theta_T = joint_thresholds.thetas(x_K[0], x_K[-1])
    sizes = np.unique(points["model_size"].to_numpy(dtype=float))
    outcomes = []
    for size in sizes:
        cells = usable[usable["model_size"] == size]
        x = np.log2(cells["num_tasks"].to_numpy(dtype=float))
        outcomes.append(Outcomes(*counts(x, (cells["phase"] >= phase).to_numpy())))
    posterior = joint_thresholds.posterior(
        theta_T, np.log2(sizes), outcomes, joint_thresholds.LEAPS
    )
    rises = joint_thresholds.rises_at(tuple(theta_T.tolist()), tuple(x_K.tolist()))
    share_WxK = np.einsum("wtm,tmk->wk", posterior.weight_WxTxM, np.exp(rises.log_yes_TxMxK))
    rows = np.searchsorted(sizes, points["model_size"].to_numpy(dtype=float))
    columns = np.searchsorted(x_K, np.log2(points["num_tasks"].to_numpy(dtype=float)))
    share: np.ndarray = share_WxK[rows, columns]
    return share
