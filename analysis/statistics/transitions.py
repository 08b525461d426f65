"""Where, as the number of tasks or the model grows, cells change phase.

Generalizing begins at the number of tasks where the generalizing phase takes over; identifying
begins where phases leave memorizing (identifying or generalizing take over). Both are thresholds of
a seed's yes-or-no outcome ("at least this phase") against log2 of the number of tasks, with the
model of `core.thresholds`: the estimate is the posterior median, the interval goes from the (1-c)/2
to the (1+c)/2 quantile and spans the gap of the grid that the estimate lies in, because nothing was
trained there. Where outcomes separate perfectly, every place of the gap fits equally well and the
estimate is its middle.

Where a constant share of seeds fits better than a rise inside the grid, the transition is unclear
and has no estimate; where outcomes rise no more than accidents of their arrangement do, it is
unclear too. A phase that is left again, for a less capable one, within the grid has an end
beside its begin. What is left for a more capable phase ends where that one begins.

Cells without a phase (diverged or failed) and cells that never left their plateau say nothing
about the phase and are left out. How often all this is right: docs/statistics.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.analysis.statistics.phases import classify, require_one_condition
from metaphase.core import schema
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE as OF_CELLS
from metaphase.core.phases import GENERALIZING, IDENTIFYING
from metaphase.core.thresholds import Fit, Threshold, fit

BEGINS = (IDENTIFYING, GENERALIZING)  # the phases whose boundaries are estimated
BEGIN, END = "begin", "end"  # values of boundary
DELTAS = (0.02, 0.05, 0.1, 0.2)  # of `by_delta`
FEWEST_SIZES = 3  # for thresholds along model size

COLUMNS = (
    "architecture", "model_size", "begins", "boundary", "log2_num_tasks", "low", "high",
    "censored", "bayes_factor", "clear", "smallest", "largest", "cells",
)  # fmt: skip


def estimate_transitions(classified: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """The log2 number of tasks at which identifying and generalizing begin, per model size.

    Args:
        classified: cells with `phase`, of one condition, as from
            `analysis.statistics.phases.classify`.

    Returns:
        A row for each (architecture, model_size) and phase in `BEGINS`, and a second one where the
        phase comes and goes: `begins` (the phase), `boundary` (`BEGIN` or `END`), `log2_num_tasks`
        (NaN if censored), `low`, `high` (-inf, inf where open), `censored` (of `core.thresholds`),
        `bayes_factor` and `clear` (see `core.thresholds.Threshold`; False: no claim at all),
        `smallest` and `largest` (log2 numbers of tasks of the cells used), `cells` (how many).

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    return _table(usable_cells(classified), "model_size", "num_tasks", confidence)


def along_model_size(classified: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """The log2 model size at which phases begin, per number of tasks.

    Returns:
        As `estimate_transitions`, with num_tasks in the place of model_size and the other way
        round; numbers of tasks with cells of fewer than `FEWEST_SIZES` sizes are left out.

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    usable = usable_cells(classified)
    sizes = usable.groupby(["architecture", "num_tasks"])["model_size"].transform("nunique")
    return _table(usable[sizes >= FEWEST_SIZES], "num_tasks", "model_size", confidence)


def by_delta(
    cells: pd.DataFrame,
    deltas: tuple[float, ...] = DELTAS,
    confidence: float = CONFIDENCE,
    of_cells: float = OF_CELLS,
    rule: Rule | None = None,
) -> pd.DataFrame:
    """How transitions move with the least effect that counts.

    Args:
        cells: of one condition, as from `analysis.load.load_cells`.
        deltas: see `analysis.statistics.phases.classify`.
        confidence: of the transitions' intervals.
        of_cells: that of the intervals that decide a cell's phase.
        rule: see `analysis.statistics.phases.classify`.

    Returns:
        As `estimate_transitions`, a set of rows for each `delta`, the first column.
    """
    tables = [
        estimate_transitions(classify(cells, delta, of_cells, rule=rule), confidence).assign(
            delta=delta
        )
        for delta in deltas
    ]
    return pd.concat(tables, ignore_index=True)[["delta", *COLUMNS]]


def usable_cells(classified: pd.DataFrame) -> pd.DataFrame:
    """The cells that say something about their phase: they finished and left their plateau."""
    usable = (classified["status"] == schema.DONE) & classified["phase"].notna()
    if "on_plateau" in classified:
        usable &= ~classified["on_plateau"].fillna(False).astype(bool)
    return classified[usable]


def counts(x: np.ndarray, reached: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct values of x in order, and how many runs reached the phase and didn't there."""
    x_K, inverse = np.unique(np.asarray(x, dtype=float), return_inverse=True)
    yes_K = np.bincount(inverse, weights=np.asarray(reached, dtype=float))
    return x_K, yes_K, np.bincount(inverse) - yes_K


def threshold(x: np.ndarray, reached: np.ndarray, confidence: float = CONFIDENCE) -> Threshold:
    """Where the share of runs that reached a phase begins to be there; see `core.thresholds`.

    Args:
        x: log2 number of tasks of each run, shape (runs,), at least one.
        reached: whether the run reached the phase, shape (runs,), bool.
        confidence: posterior probability of the interval (at least, see above), its tails equal.
    """
    x_K, yes_K, no_K = counts(x, reached)
    return fit(x_K, yes_K[None], no_K[None], confidence)[0].begin


def _table(usable: pd.DataFrame, row_axis: str, axis: str, confidence: float) -> pd.DataFrame:
    """The boundaries along `axis` at each value of `row_axis`.

    Rows with the same values of the axis are fitted together, which is much faster."""
    require_one_condition(usable)
    rows: list[tuple[object, ...]] = []
    outcomes: dict[tuple[float, ...], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    every_x = np.log2(usable[axis].to_numpy(dtype=float))
    reached = {phase: (usable["phase"] >= phase).to_numpy() for phase in BEGINS}
    groups: dict[Any, Any] = usable.groupby(["architecture", row_axis]).indices
    for (architecture, at), of_row in sorted(groups.items()):
        x = every_x[of_row]
        for phase in BEGINS:
            x_K, yes_K, no_K = counts(x, reached[phase][of_row])
            outcomes.setdefault(tuple(x_K.tolist()), []).append((len(rows), yes_K, no_K))
            rows.append((architecture, at, phase, x_K[0], x_K[-1], len(x)))
    found: dict[int, Fit] = {}
    for x, members in outcomes.items():
        numbers, yes_RxK, no_RxK = zip(*members, strict=True)
        fits = _fits(x, _as_tuples(yes_RxK), _as_tuples(no_RxK), confidence)
        found.update(zip(numbers, fits, strict=True))
    told = [
        (
            *key,
            boundary,
            at.estimate,
            at.low,
            at.high,
            at.censored,
            at.bayes_factor,
            at.clear,
            *used,
        )
        for number, (*key, smallest, largest, cells) in enumerate(rows)
        for used in [(smallest, largest, cells)]
        for boundary, at in zip((BEGIN, END), (found[number].begin, found[number].end), strict=True)
        if at is not None
    ]
    names = ("architecture", row_axis, "begins", "boundary", f"log2_{axis}", *COLUMNS[5:])
    return pd.DataFrame(told, columns=list(names))


@functools.lru_cache(maxsize=32)
def _fits(
    x: tuple[float, ...],
    yes: tuple[tuple[float, ...], ...],
    no: tuple[tuple[float, ...], ...],
    confidence: float,
) -> tuple[Fit, ...]:
    """`core.thresholds.fit`, once for tables and figures that ask of the same outcomes."""
    return tuple(fit(np.array(x), np.array(yes), np.array(no), confidence))


def _as_tuples(rows: Iterable[np.ndarray]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row.tolist()) for row in rows)
