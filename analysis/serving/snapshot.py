"""What there is to show of a sweep at one moment: all cells of its grid, finished or not, each at
all its evaluations, by phase; and where phases begin."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from metaphase.analysis.load import concatenate, grid_rows
from metaphase.analysis.statistics import phases, training_phases, untrained
from metaphase.analysis.statistics.settings import setting_columns
from metaphase.analysis.statistics.transitions import estimate_transitions
from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA
from metaphase.sweeps.store import tables

IN_TRAINING, MISSING = "in training", "no result yet"  # statuses of cells that aren't finished

# What cells share that are evaluated on sequences of the same kind ...
_KIND = ("task_family", "dataset", "num_classes", "sequence_length", "image_size", "grayscale")
_OF_KIND = ("chance", "unseen_level", "guess_loss")  # ... and so have the same of these
_CHOICES = ("architecture", "task_family", "dataset")  # by which conditions are chosen first


@dataclass(frozen=True)
class Grid:
    """What the preset and the driver say of a sweep, beside its tables.

    Attributes:
        name, description: of the sweep.
        unfinished: {cell: its status, `IN_TRAINING` or `MISSING`} of the grid.
        by: who runs it, in words; None: nobody.
        seconds_left: estimate of the time to the end; None: unknown.
        packs: lines, one for each pack in training.
        search: all cells that a search (docs/search.md) may train; empty: it is no search.
    """

    name: str
    description: str = ""
    unfinished: Mapping[Cell, str] = field(default_factory=dict)
    by: str | None = None
    seconds_left: float | None = None
    packs: Sequence[str] = ()
    search: Sequence[Cell] = ()


@dataclass(frozen=True, eq=False)
class Condition:
    """Cells that share one map.

    Attributes:
        settings: what is particular to it.
        cells: its rows.
        transitions: from `analysis.statistics.transitions.estimate_transitions`.
        expected: of a search, from `analysis.statistics.untrained.expected`.
    """

    settings: dict[str, object]
    cells: pd.DataFrame
    transitions: pd.DataFrame
    expected: pd.DataFrame | None = None


@dataclass(frozen=True)
class Thresholds:
    """By what phases are told: the arguments of `analysis.statistics.phases.classify`."""

    delta: float = DELTA
    confidence: float = CONFIDENCE
    rule: Rule | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A sweep at one moment.

    Attributes:
        path: its place.
        grid: what its preset and driver say.
        cells: classified cells, those that aren't finished too, whose `status` is `IN_TRAINING` or
            `MISSING`; with the last accuracies of splits that the cells table doesn't tell of,
            `unseen/<dataset>_last`.
        evaluations: the classified cells as of every evaluation, with `step`; those of unfinished
            cells as far as it is known what a guess reaches there.
        conditions: in the order of `analysis.statistics.phases.split_conditions`.
        notes: lines on what is left out.
        at: when it was taken, seconds since 1970.
        thresholds: by which phases were told.
    """

    path: str
    grid: Grid
    cells: pd.DataFrame
    evaluations: pd.DataFrame
    conditions: list[Condition]
    notes: list[str]
    at: float
    thresholds: Thresholds = Thresholds()


def take(
    path: str,
    finished: pd.DataFrame,
    history: pd.DataFrame,
    grid: Grid,
    notes: Sequence[str] = (),
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    rule: Rule | None = None,
) -> Snapshot:
    """The snapshot of these tables.

    Args:
        path: the sweep's place.
        finished: the finished cells, at least the columns of `analysis.load.load_cells`.
        history: from `analysis.load.load_history`.
        grid: of the same moment.
        notes: lines on what is left out.
        delta, confidence, rule: see `analysis.statistics.phases.classify`.
    """
    known = set(finished["cell_id"])
    left = {cell: status for cell, status in grid.unfinished.items() if cell.cell_id not in known}
    finished = _with_further_splits(finished, history)
    cells = phases.classify(_with_unfinished(finished, left), delta, confidence, rule=rule)
    space = grid_rows(grid.search) if grid.search else None
    conditions = [
        _condition(settings, group, space)
        for settings, group in (phases.split_conditions(cells) if len(cells) else ())
    ]
    every = training_phases.evaluations(_as_trained(cells), history)
    evaluations = phases.classify(every, delta, confidence, rule=rule)
    thresholds = Thresholds(delta, confidence, rule)
    return Snapshot(
        path, grid, cells, evaluations, conditions, list(notes), time.time(), thresholds
    )


def _condition(
    settings: dict[str, object], cells: pd.DataFrame, space: pd.DataFrame | None
) -> Condition:
    finished = cells[~_unfinished(cells)]
    expected = untrained.expected(finished, space, settings) if len(finished) else None
    return Condition(settings, cells, estimate_transitions(cells), expected)


def choices(conditions: Sequence[Condition]) -> list[str]:
    """The settings by which one of several conditions is chosen, the most telling first."""
    names = dict.fromkeys(name for one in conditions for name in one.settings)
    return sorted(
        names, key=lambda name: _CHOICES.index(name) if name in _CHOICES else len(_CHOICES)
    )


def varying(cells: pd.DataFrame) -> tuple[dict[str, object], list[str]]:
    """(the settings that all cells have in common, names of those that they differ in)."""
    common, differ = {}, []
    for name in setting_columns(cells):
        if cells[name].nunique(dropna=False) > 1:
            differ.append(name)
        elif len(cells):
            common[name] = cells[name].iloc[0]
    return common, differ


def _with_further_splits(finished: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The finished cells, with their accuracies at the last evaluation of splits that the cells
    table has no columns for."""
    own = history[history["cell_id"].isin(finished["cell_id"])].sort_values("step")
    for split, rows in own.drop_duplicates(["split", "cell_id"], keep="last").groupby("split"):
        name = f"{split}_{schema.LAST}"
        if name not in finished:
            values = finished["cell_id"].map(rows.set_index("cell_id")[schema.LAST])
            finished = finished.assign(**{name: values})
    return finished


def _with_unfinished(finished: pd.DataFrame, left: Mapping[Cell, str]) -> pd.DataFrame:
    """The finished cells, and behind them a row for each of the others, with its settings."""
    if not left:
        return finished
    rows = [
        {name: schema.to_column(value) for name, value in cell.to_dict().items()}
        | {
            "cell_id": cell.cell_id,
            "own_settings": ",".join(name for name, _ in cell.own),
            "status": status,
        }
        for cell, status in left.items()
    ]
    added = concatenate("cells", [tables.to_table(rows, tables.CELLS)])
    if finished.empty:
        return added
    added = added.dropna(axis="columns", how="all")  # they say nothing of a column's type
    return pd.concat([finished, added], ignore_index=True)


def _unfinished(cells: pd.DataFrame) -> pd.Series:
    return cells["status"].isin((IN_TRAINING, MISSING))


def _as_trained(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells as if each had finished, where it is known what a guess reaches on them."""
    unfinished = _unfinished(cells)
    if not unfinished.any():
        return cells
    kind = [name for name in _KIND if name in cells]
    groups = cells.groupby(kind, dropna=False)
    filled = cells.copy()
    for name in _OF_KIND:
        alike = groups[name].transform("nunique") == 1
        shared = groups[name].transform("first").where(alike)
        filled[name] = filled[name].where(~unfinished, shared)
    filled["status"] = filled["status"].mask(unfinished, schema.DONE)
    return filled[filled["chance"].notna() | (filled["status"] != schema.DONE)]
