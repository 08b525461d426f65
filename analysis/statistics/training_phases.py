"""Phases while cells train: the same rule at every evaluation, and when each phase came and went.

An evaluation has every statistic that the rule asks for; chance and the like are the cell's own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.phases import AXES, classify
from metaphase.core import schema
from metaphase.core.phases import DELTA, PHASES, UNTRAINED

_SPLITS = (schema.SEEN, schema.UNSEEN)


def over_training(cells: pd.DataFrame, history: pd.DataFrame, delta: float = DELTA) -> pd.DataFrame:
    """The phase of every finished cell at each of its evaluations.

    Args:
        cells: as from `analysis.load.load_cells`.
        history: as from `analysis.load.load_history`.
        delta: see `analysis.statistics.phases.classify`.

    Returns:
        The columns of `classify`, a row a cell and `step`, in order. Statistics are those of the
        step. Evaluations without numbers (of cells that had diverged) are left out.
    """
    statistics = [*schema.with_standard_errors(schema.STATISTICS), "loss"]
    found = history[history["split"].isin(_SPLITS)]
    found = found[found["cell_id"].isin(cells["cell_id"])].dropna(subset=[schema.LAST])
    wide = found.pivot(index=["cell_id", "step"], columns="split", values=statistics)
    wide.columns = [f"{split}_{name}" for name, split in wide.columns]
    n = found.groupby(["cell_id", "step"])["n"].first()
    wide = wide.assign(n=n).reset_index()
    own = cells.drop(columns=[c for c in wide if c in cells and c != "cell_id"])
    rows = wide.merge(own, on="cell_id", validate="many_to_one")
    rows = rows.assign(status=schema.DONE, steps_trained=rows["step"])
    if "plateau_steps" in rows:
        left = rows["plateau_steps"].astype(float)
        rows["plateau_steps"] = left.where(left <= rows["step"])
    order = [*AXES, "cell_id", "step"]
    return classify(rows.sort_values(order, ignore_index=True), delta)


def onsets(evaluations: pd.DataFrame) -> pd.DataFrame:
    """When each cell reached each phase, and when it lost it.

    An evaluation whose phase is undecided counts as the one before it, so that noise at a
    threshold is no onset and no loss.

    Args:
        evaluations: from `over_training`.

    Returns:
        A row for each cell and phase, but untrained, that it was ever in: the grid's axes,
        `cell_id`, `phase`, `onset` (first step evaluated in the phase), `last` (last one),
        `lost_by` (the first evaluation after `last`; NaN if the cell ended in the phase),
        `lost_to` (the phase it was in then; null as well), `transient` (the cell ended in a less
        capable phase than this one) and `ended` (the phase at its last evaluation).
    """
    rank_of = {phase: rank for rank, phase in enumerate(PHASES)}
    rows = []
    for key, group in evaluations.groupby([*AXES, "cell_id"], sort=True):
        steps, rank = group["step"].to_numpy(), _settled(group, rank_of)
        for phase in PHASES[1:]:
            at = np.flatnonzero(rank == rank_of[phase])
            if not len(at):
                continue
            left = at[-1] + 1 < len(steps)
            lost = (float(steps[at[-1] + 1]), PHASES[rank[at[-1] + 1]]) if left else (np.nan, None)
            rows.append(
                (*key, phase, steps[at[0]], steps[at[-1]], *lost,
                 bool(rank[-1] < rank_of[phase]), PHASES[rank[-1]])
            )  # fmt: skip
    columns = ["phase", "onset", "last", "lost_by", "lost_to", "transient", "ended"]
    return pd.DataFrame(rows, columns=[*AXES, "cell_id", *columns])


def _settled(group: pd.DataFrame, rank_of: dict[str, int]) -> np.ndarray:
    """The phases of a cell's evaluations as ranks, undecided ones as the one before."""
    rank = group["phase"].astype(object).map(rank_of).astype(float)
    if "decided" in group:
        rank = rank.where(group["decided"].astype(bool))
    return rank.ffill().fillna(rank_of[UNTRAINED]).astype(int).to_numpy()
