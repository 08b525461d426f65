"""Phases while cells are trained: every evaluation is classified by the rule for cells, as if
training had ended there.

A phase's onset is the first evaluation at which a cell is in it; it is lost at the first evaluation
after the last one at which the cell is in it. A cell is transient if it generalized at an
evaluation and doesn't at its last one (Singh et al. 2023, arXiv 2311.08360, found in-context
learning to be so). Cells are known by their row in the cells table, so those in training, which
have none yet, are left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.phases import AXES
from metaphase.core import schema
from metaphase.core.phases import GENERALIZING, PHASES, UNTRAINED


def evaluations(cells: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The cells table as of every evaluation.

    Args:
        cells: from `analysis.load.load_cells`.
        history: from `analysis.load.load_history`.

    Returns:
        A row a cell and evaluation, with the columns of `cells` and `step`. Statistics and
        `steps_trained` are those of that step; `plateau_steps` is null until it is reached; a cell
        is `done` until the step at which it diverged. Failed cells are left out.
    """
    splits = [name for name in history["split"].unique() if f"{name}_{schema.LAST}" in cells]
    rows = history[history["split"].isin(splits) & history["cell_id"].isin(cells["cell_id"])]
    values = [name for name in history if name not in ("cell_id", "step", "split", "n")]
    wide = rows.pivot(index=["cell_id", "step"], columns="split", values=values)
    wide.columns = pd.Index([f"{pair[1]}_{pair[0]}" for pair in wide.columns.to_list()])
    counts = rows.groupby(["cell_id", "step"])["n"].first()
    kept = [name for name in cells if name not in wide and name not in ("n", "step")]
    found = wide.join(counts).reset_index().merge(cells[kept], on="cell_id")
    found = found[found["status"] != schema.FAILED]
    if "diverged_at" in found:
        later = found["diverged_at"].isna() | (found["step"] < found["diverged_at"].astype(float))
        found["status"] = found["status"].mask(later & (found["status"] == schema.DIVERGED), "done")
    if "plateau_steps" in found:
        reached = found["plateau_steps"].astype(float) <= found["step"]
        found["plateau_steps"] = found["plateau_steps"].where(reached)
    if "steps_trained" in found:
        found["steps_trained"] = found["step"]
    order = [name for name in cells if name in found]
    return found[[*order, "step"]].sort_values(["cell_id", "step"], ignore_index=True)


def as_of(cells: pd.DataFrame, history: pd.DataFrame, step: int) -> pd.DataFrame:
    """The cells table as of a step: each cell at its last evaluation up to then, without those that
    had none."""
    found = evaluations(cells, history)
    found = found[found["step"] <= step].groupby("cell_id").tail(1)
    return found.drop(columns="step").sort_values([*AXES, "cell_id"], ignore_index=True)


def onsets(classified: pd.DataFrame) -> pd.DataFrame:
    """When each cell came into each phase, and when it left it for good.

    Args:
        classified: `evaluations`, classified by `analysis.statistics.phases.classify`.

    Returns:
        A row for each cell and phase but untrained that it was ever in: cell_id, architecture,
        model_size, num_tasks, seed, `phase`, `onset` and `lost` (steps; `lost` null: it was in the
        phase at its last evaluation), `last_step`, and `transient` (the cell generalized and
        doesn't at its last evaluation).
    """
    rows = classified[(classified["status"] == schema.DONE) & classified["phase"].notna()]
    keys = ["cell_id", *AXES]
    rows = rows[[*keys, "step", "phase"]].astype({"phase": str}).sort_values(["cell_id", "step"])
    cell = rows.groupby("cell_id")
    rows = rows.assign(
        next_step=cell["step"].shift(-1), last_step=cell["step"].transform("max"),
        final=cell["phase"].transform("last"),
    )  # fmt: skip
    rows = rows[rows["phase"] != UNTRAINED]
    first = rows.drop_duplicates(["cell_id", "phase"])
    last = rows.drop_duplicates(["cell_id", "phase"], keep="last")
    lost = last[["cell_id", "phase", "next_step"]].rename(columns={"next_step": "lost"})
    found = first.rename(columns={"step": "onset"}).merge(lost, on=["cell_id", "phase"])
    reached = found["cell_id"].isin(found.loc[found["phase"] == GENERALIZING, "cell_id"])
    found["transient"] = reached & (found["final"] != GENERALIZING)
    found = found[[*keys, "phase", "onset", "lost", "last_step", "transient"]]
    order = found["phase"].map({name: i for i, name in enumerate(PHASES)})
    found = found.assign(_order=order).sort_values([*AXES, "cell_id", "_order"], ignore_index=True)
    return found.drop(columns="_order").astype({"lost": "Int64"})


def transient_text(found: pd.DataFrame) -> list[str]:
    """A line a cell that generalized and doesn't at its last evaluation.

    Args:
        found: from `onsets`.
    """
    rows = found[found["transient"] & (found["phase"] == GENERALIZING)]
    return [
        f"model size {row['model_size']}, {row['num_tasks']} tasks, seed {row['seed']}: "
        f"generalized at step {row['onset']}, lost it by step {row['lost']}"
        for row in rows.to_dict("records")
    ]


def step_edges(steps: np.ndarray) -> dict[int, tuple[float, float]]:
    """Where each step's tile begins and ends, log10 of steps: half-way between them.

    Args:
        steps: of evaluations, those above 0, shape (any,).
    """
    ordered = np.unique(np.asarray(steps))
    x = np.log10(ordered.astype(float))
    half = np.diff(x) / 2 if len(x) > 1 else np.array([0.15])
    left = x - np.concatenate([half[:1], half])[: len(x)]
    right = x + np.concatenate([half, half[-1:]])[: len(x)]
    return dict(zip(ordered.tolist(), zip(left, right, strict=True), strict=True))
