"""Two modes: do seeds near the transition end either low or high, rarely between?

Grid points are aligned on their model size's transition to generalizing, and those within one
spacing of the grid are pooled over model sizes, as presets have few seeds. A size's accuracies on
unseen tasks are scaled, 0 being what is reached without learning and 1 the best median over seeds
of any number of tasks, so that modes of different sizes fall together. Grid points whose seeds
differ by less than `bimodality.LEAST_RANGE` are left out; the test knows that
(`bimodality.pooled_test`). Asked where two seeds or more ran and at least `bimodality.FEWEST`
values are left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import bimodality, phases, transitions
from metaphase.core.phases import GENERALIZING

COLUMNS = ("model_size", "num_tasks", "seed", "octaves", "accuracy", "scaled", "used")


def find(classified: pd.DataFrame) -> Iterator[Answer]:
    """An answer for each condition with enough seeds near its transitions."""
    for condition, cells in phases.split_conditions(classified):
        if cells["seed"].nunique() < 2 or cells["num_tasks"].nunique() < 3:
            continue
        table, least = near_transitions(cells)
        point = table.groupby(["model_size", "num_tasks"]).ngroup().to_numpy()
        found = bimodality.pooled_test(table["scaled"].to_numpy(dtype=float), point, least)
        if found is not None:
            name = f"modes{labels.file_suffix(condition)}"
            yield Answer(name, describe(table, found, labels.title(classified, condition)), table)


def near_transitions(classified: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Seeds at the grid points nearest to their model size's transition to generalizing.

    Args:
        classified: of one condition, as from `analysis.statistics.phases.classify`.

    Returns:
        (`COLUMNS`, a row a seed: `octaves` from the transition, `accuracy` on unseen tasks,
        `scaled` (see above), `used`: whether the grid point's seeds differ enough; that least
        difference, in scaled values, shape (rows,)).
    """
    found = transitions.estimate_transitions(classified)
    begins = (found["begins"] == GENERALIZING) & (found["boundary"] == transitions.BEGIN)
    begins &= found["clear"].astype(bool)
    theta = found[begins].set_index("model_size")["log2_num_tasks"].dropna()
    cells = transitions.usable_cells(classified)
    knowing_nothing = cells["unseen_level"] if "unseen_level" in cells else cells["chance"]
    rows = cells[["model_size", "num_tasks", "seed"]].assign(
        accuracy=cells["unseen_last"].astype(float), level=knowing_nothing.astype(float)
    )
    medians = rows.groupby(["model_size", "num_tasks"])["accuracy"].median()
    best = rows["model_size"].map(medians.groupby("model_size").max())
    headroom = best - rows["level"]
    x = np.log2(rows["num_tasks"].to_numpy(dtype=float))
    values = np.unique(x)
    spacing = np.median(np.diff(values)) if len(values) > 1 else 1.0
    rows = rows.assign(
        octaves=x - rows["model_size"].map(theta),
        scaled=(rows["accuracy"] - rows["level"]) / headroom,
        least=bimodality.LEAST_RANGE / headroom,
    )
    rows = rows[(rows["octaves"].abs() <= spacing) & (headroom > bimodality.LEAST_RANGE)]
    points = rows.groupby(["model_size", "num_tasks"])["accuracy"]
    spread = points.transform("max") - points.transform("min")
    rows = rows.assign(used=spread >= bimodality.LEAST_RANGE)
    rows = rows.sort_values(["model_size", "num_tasks", "seed"], ignore_index=True)
    return rows[list(COLUMNS)], rows["least"].to_numpy()


def describe(table: pd.DataFrame, found: bimodality.Pooled, title: str) -> str:
    """The pooled test in two lines."""
    used = table[table["used"]]
    sizes, points = used["model_size"].nunique(), len(used.groupby(["model_size", "num_tasks"]))
    return (
        f"{title}: two modes of seeds near the transition to generalizing? {found.values} seeds at "
        f"{points} grid points,\n  pooled over {sizes} model size{'s' * (sizes != 1)}: Hartigans' "
        f"dip {found.dip:.3f}, p = {found.p:.3f} (power against two clear modes: {found.power:.0%})"
    )
