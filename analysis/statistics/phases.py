"""What each trained cell does, decided by tests against chance: the four phases.

With `first` the accuracy where no example has been seen, `last` that of the last tenth of the
positions and `improvement = last - first` within the same sequences, a cell is

- generalizing if its improvement on unseen tasks is above delta and its interval excludes 0,
- else identifying if the same holds on seen tasks,
- else memorizing if `first` on seen tasks is above chance by more than delta and its interval
  excludes chance,
- else untrained. So are cells that diverged or failed; their `status` stays beside the phase.

`first` is a proportion over n sequences, so its interval is Wilson's score interval (Wilson 1927;
recommended by Brown, Cai & DasGupta 2001, Statistical Science 16:101). `improvement` is a paired
difference of proportions, so its interval is Bonett & Price's (2012, JEBS 37:479).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from metaphase.analysis.load import ResultsError
from metaphase.core import schema
from metaphase.core.cell import Cell

UNTRAINED, MEMORIZING, IDENTIFYING, GENERALIZING = PHASES = (
    "untrained",
    "memorizing",
    "identifying",
    "generalizing",
)  # from least to most capable; the phase column is an ordered categorical of these

# An effect that matters: 5 percentage points, a tenth or less of what trained cells show, and more
# than a chance fluctuation (2 to 4 standard errors with 10 to 5 classes and 512 sequences).
DELTA = 0.05
# A map is many tests at once. At 99% a cell whose true effect is 0 is called wrongly at most once
# in 200 (one side of the interval), so a grid of 100 cells shows less than one false phase.
CONFIDENCE = 0.99

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
    if not 0 <= delta < 1:
        raise ValueError(f"delta: {delta} is out of range; allowed: 0 to below 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is out of range; allowed: between 0 and 1")
    number = {c: cells[c].to_numpy(dtype=float, na_value=np.nan) for c in _NUMBERS}
    n, chance = number["n"], number["chance"]
    bounds = {"seen_first": wilson_interval(number["seen_first"], n, confidence)}
    for name in ("seen_improvement", "unseen_improvement"):
        bounds[name] = paired_interval(number[name], number[f"{name}_se"], n, confidence)

    def shows(name: str, null: np.ndarray | float) -> np.ndarray:
        return (number[name] - null > delta) & (bounds[name][0] > null)  # False where NaN

    done = cells["status"].to_numpy() == schema.DONE
    phase = np.select(
        [
            ~done,
            shows("unseen_improvement", 0.0),
            shows("seen_improvement", 0.0),
            shows("seen_first", chance),
        ],
        [UNTRAINED, GENERALIZING, IDENTIFYING, MEMORIZING],
        UNTRAINED,
    )
    new: dict[str, Any] = {"phase": pd.Categorical(phase, list(PHASES), ordered=True)}
    for name, (low, high) in bounds.items():
        new |= {f"{name}_low": low, f"{name}_high": high}
    return cells.assign(**new)


_NUMBERS = (
    "n",
    "chance",
    "seen_first",
    "seen_improvement",
    "seen_improvement_se",
    "unseen_improvement",
    "unseen_improvement_se",
)


def wilson_interval(
    proportion: np.ndarray, n: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a binomial proportion; any shape, elementwise.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): the values q that the score test
    |p - q| <= z sqrt(q(1-q)/n) does not reject (Wilson 1927, JASA 22:209).
    """
    z2n = special.ndtri((1 + confidence) / 2) ** 2 / n
    center = (proportion + z2n / 2) / (1 + z2n)
    half = np.sqrt(z2n * (proportion * (1 - proportion) + z2n / 4)) / (1 + z2n)
    return center - half, center + half


def paired_interval(
    mean: np.ndarray, standard_error: np.ndarray, n: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a mean of n differences in [-1, 1], each between two accuracies of one sequence;
    any shape, elementwise.

    Student's t interval after two more sequences, one that gains all and one that loses all: for
    right or wrong answers the adjusted interval of Bonett & Price (2012, JEBS 37:479), with t's
    quantile for the normal one. Unadjusted it is far too short where sequences hardly differ.

    Args:
        mean, standard_error: of the n differences; the error is deviation / sqrt(n).
    """
    squares = standard_error**2 * n * (n - 1) + n * mean**2 + 2
    middle = mean * n / (n + 2)
    error = np.sqrt((squares / (n + 2) - middle**2) / (n + 1))
    half = special.stdtrit(n + 1, (1 + confidence) / 2) * error
    return middle - half, middle + half


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
