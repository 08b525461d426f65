"""The relative distance of models between the two best predictors: 0 is M, whose prior is the tasks
trained on, 1 is G, whose prior is what tasks are drawn from (`core.predictor_phases`). Means over
seeds, along two axes of a sweep, on new tasks.

It is null where evaluations can't tell it (`core.evaluation.distances.nearest`), and where there
are too many tasks for M; such seeds are counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metaphase.core import schema
from metaphase.core.phases import PHASES

COLUMN = f"{schema.UNSEEN}_relative_distance"
BETWEEN, FROM_G = "distance_between", "distance_generalizing"
TASKS, SIZE, STEP, POSITION = "num_tasks", "model_size", "step", "position"


def has_it(table: pd.DataFrame, column: str = COLUMN) -> bool:
    """Whether any row of a table says how far a model is from both."""
    between = column.replace("relative_distance", "distance_between")
    return {column, between} <= set(table) and bool(table[between].notna().any())


def of_cells(classified: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each value of `keys` among finished cells, or evaluations, that were compared, with
    G at least.

    Args:
        classified: as from `analysis.statistics.phases.classify`.
        keys: columns.

    Returns:
        `keys`, `relative_distance` (mean over the seeds that have one; NaN: none has), `lowest`,
        `highest`, `seeds`, `not_computed` (seeds with too many tasks for M), `unknown` (others that
        have none), and `phase`, that of most seeds with one, of equally many the least capable.
    """
    done = classified[classified["status"] == schema.DONE]
    names = {f"{schema.UNSEEN}_{name}": name for name in ("relative_distance", BETWEEN, FROM_G)}
    return _summary(
        done[[n for n in done if n not in names.values()]].rename(columns=names), list(keys)
    )


def over_context(curves: pd.DataFrame, classified: pd.DataFrame) -> pd.DataFrame:
    """As `of_cells`, at each position of the sequences of finished cells, by model size and number
    of tasks; without phases, which are of all positions together.

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
    """
    done = classified.loc[classified["status"] == schema.DONE, ["cell_id", SIZE, TASKS, "seed"]]
    rows = curves[curves["split"] == schema.UNSEEN]
    return _summary(rows.merge(done, on="cell_id"), [SIZE, TASKS, POSITION])


def _summary(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    compared = rows[BETWEEN].notna()
    told = compared | rows[FROM_G].notna() if FROM_G in rows else compared
    rows = rows.assign(
        relative_distance=rows["relative_distance"].astype(float), not_computed=~compared
    )[told]
    groups = rows.groupby(keys)
    value, too_many = groups["relative_distance"], groups["not_computed"].sum()
    found = pd.DataFrame(
        {
            "relative_distance": value.mean(), "lowest": value.min(), "highest": value.max(),
            "seeds": groups.size(), "not_computed": too_many,
            "unknown": groups.size() - value.count() - too_many,
        }
    )  # fmt: skip
    if "phase" in rows:
        counts = pd.DataFrame({phase: rows["phase"] == phase for phase in PHASES})
        of_phase = counts.groupby([rows[key] for key in keys]).sum().to_numpy()
        most = np.array(PHASES, dtype=object)[of_phase.argmax(axis=1)]
        most[of_phase.sum(axis=1) == 0] = None
        found["phase"] = most
    return found.reset_index()


def loss_table(curves: pd.DataFrame, classified: pd.DataFrame) -> pd.DataFrame:
    """The loss at every position, of finished cells and of the predictors on their sequences.

    Args:
        curves, classified: as for `over_context`.

    Returns:
        A row for each split, cell and position: `split`, model_size, num_tasks, seed, `position`,
        `loss`, and `loss_<predictor>` of each predictor.
    """
    done = classified.loc[classified["status"] == schema.DONE, ["cell_id", SIZE, TASKS, "seed"]]
    names = predictors(curves)
    rows = curves[curves[names].notna().any(axis=1)].merge(done, on="cell_id")
    keys = ["split", SIZE, TASKS, "seed", POSITION]
    return rows[[*keys, "loss", *names]].sort_values(keys, ignore_index=True)


def predictors(table: pd.DataFrame) -> list[str]:
    """The columns of a table that are losses of predictors, those of the best two first."""
    first = ["loss_memorizing", "loss_generalizing", "loss_no_context"]
    found = [str(name) for name in table if str(name).startswith("loss_")]
    return [n for n in first if n in found] + sorted(set(found) - {*first, "loss_se"})
