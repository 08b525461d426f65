"""Phases of whole tables: each cell's by the rule of `core.phases`, each grid point's by its seeds.

Cells that diverged or failed count as untrained; their `status` stays beside the phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis.load import ResultsError
from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.core.phases import (
    CONFIDENCE,
    DECIDING_COLUMNS,
    DELTA,
    PHASES,
    UNTRAINED,
    decide,
)

AXES = ("architecture", "model_size", "num_tasks", "seed")  # of the grid
GRID_POINT = list(AXES[:3])


def classify(
    cells: pd.DataFrame, delta: float = DELTA, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """The cells table with each cell's phase and the intervals that decided it.

    Args:
        cells: a row a cell, as from `analysis.load.load_cells`.
        delta: least effect that counts, an accuracy difference.
        confidence: of the two-sided intervals.

    Returns:
        `cells`, same rows and index, plus `phase` (ordered categorical) and, for seen_first,
        seen_improvement and unseen_improvement, `<name>_low` and `<name>_high`.

    Raises:
        ValueError: delta is not in [0, 1) or confidence not in (0, 1).
    """
    number = {c: cells[c].to_numpy(dtype=float, na_value=np.nan) for c in DECIDING_COLUMNS}
    decided, bounds = decide(number, delta, confidence)
    phase = np.where(cells["status"].to_numpy() == schema.DONE, decided, UNTRAINED)
    new: dict[str, Any] = {"phase": pd.Categorical(phase, list(PHASES), ordered=True)}
    for name, (low, high) in bounds.items():
        new |= {f"{name}_low": low, f"{name}_high": high}
    return cells.assign(**new)


def summarize_grid(classified: pd.DataFrame) -> pd.DataFrame:
    """Each grid point's majority phase and how its seeds split.

    The majority is the phase of most seeds that finished; of phases that tie, the least capable,
    so that a map never claims more than its seeds show. Where none finished it is untrained.

    Returns:
        A row a grid point (architecture, model_size, num_tasks), with `phase`, `agreement` (share
        of the finished seeds that are in it; NaN where none finished), `seeds`, a count for each
        phase under its name (finished seeds only), and `unfinished` (diverged or failed).

    Raises:
        ResultsError: cells differ in more than the grid's axes (see `split_conditions`).
    """
    require_one_condition(classified)
    done = classified["status"] == schema.DONE
    counts = pd.DataFrame({phase: (classified["phase"] == phase) & done for phase in PHASES})
    keys = [classified[axis] for axis in GRID_POINT]
    points = counts.assign(unfinished=~done).groupby(keys).sum().astype(int)
    of_phase = points[list(PHASES)].to_numpy()
    finished = of_phase.sum(axis=1)
    best = of_phase.argmax(axis=1)  # the first, so the least capable, of those that tie
    most = of_phase.max(axis=1)
    points["phase"] = pd.Categorical(np.array(PHASES)[best], list(PHASES), ordered=True)
    points["agreement"] = np.where(finished, most / np.maximum(finished, 1), np.nan)
    points["seeds"] = finished + points["unfinished"].to_numpy()
    order = ["phase", "agreement", "seeds", *PHASES, "unfinished"]
    return points[order].reset_index()


def split_conditions(cells: pd.DataFrame) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """Cells that may share one phase map: one architecture, and one value of every other setting.

    A setting that follows from the model size or from the number of tasks belongs to that axis (a
    wider model's learning rate, say). Every other setting that takes several values makes its own
    maps, so nothing is averaged over but seeds.

    Returns:
        (what is particular to it, its cells) for each; the first is {} when there is only one.
    """
    varying = []
    for name in [f for f in Cell.__dataclass_fields__ if f not in AXES and f in cells]:
        values = cells[name].map(lambda v: tuple(v) if isinstance(v, (list, np.ndarray)) else v)
        follows = (
            values.groupby([cells["architecture"], cells[axis]]).nunique(dropna=False).max() == 1
            for axis in ("model_size", "num_tasks")
        )
        if values.nunique(dropna=False) > 1 and not any(follows):
            varying.append(values.rename(name))
    if cells["architecture"].nunique() > 1:
        varying.insert(0, cells["architecture"])
    if not varying:
        return [({}, cells)]
    labels = [str(key.name) for key in varying]
    groups = cells.groupby(varying, dropna=False, sort=True)
    return [(dict(zip(labels, key, strict=True)), group) for key, group in groups]


def require_one_condition(cells: pd.DataFrame) -> None:
    """Raises ResultsError if two cells share architecture, model size, number of tasks and seed."""
    if cells.duplicated(list(AXES)).any():
        raise ResultsError(
            "cells differ in more than architecture, model_size, num_tasks and seed; "
            "analyse each group of phases.split_conditions by itself"
        )
