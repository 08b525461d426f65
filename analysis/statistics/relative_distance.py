"""The relative distance of models between the two best predictors: 0 is M, whose prior is the tasks
trained on, 1 is G, whose prior is what tasks are drawn from (`core.predictor_phases`). Means over
seeds, along two axes of a sweep, on new tasks.

It is null where M and G coincide within noise; such seeds are counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metaphase.core import schema
from metaphase.core.phases import PHASES

COLUMN = f"{schema.UNSEEN}_relative_distance"
TASKS, SIZE, STEP, POSITION = "num_tasks", "model_size", "step", "position"


def has_it(table: pd.DataFrame, column: str = COLUMN) -> bool:
    """Whether any row of a table says how far a model is from both."""
    between = column.replace("relative_distance", "distance_between")
    return {column, between} <= set(table) and bool(table[between].notna().any())


def of_cells(classified: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each value of `keys` among finished cells, or evaluations, that were compared.

    Args:
        classified: as from `analysis.statistics.phases.classify`.
        keys: columns.

    Returns:
        `keys`, `relative_distance` (mean over the seeds that have one; NaN: none has), `lowest`,
        `highest`, `seeds`, `coincide` (seeds that have none), and `phase`, that of most seeds with
        one, of equally many the least capable.
    """
    done = classified[classified["status"] == schema.DONE]
    done = done[done[COLUMN.replace("relative_distance", "distance_between")].notna()]
    return _summary(done.rename(columns={COLUMN: "relative_distance"}), list(keys))


def over_context(curves: pd.DataFrame, classified: pd.DataFrame) -> pd.DataFrame:
    """As `of_cells`, at each position of the sequences of finished cells, by model size and number
    of tasks; without phases, which are of all positions together.

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
    """
    done = classified.loc[classified["status"] == schema.DONE, ["cell_id", SIZE, TASKS, "seed"]]
    rows = curves[(curves["split"] == schema.UNSEEN) & curves["distance_between"].notna()]
    return _summary(rows.merge(done, on="cell_id"), [SIZE, TASKS, POSITION])


def _summary(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rows = rows.assign(relative_distance=rows["relative_distance"].astype(float))
    groups = rows.groupby(keys)
    value = groups["relative_distance"]
    found = pd.DataFrame(
        {
            "relative_distance": value.mean(), "lowest": value.min(), "highest": value.max(),
            "seeds": groups.size(), "coincide": groups.size() - value.count(),
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
