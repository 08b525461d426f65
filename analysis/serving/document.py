"""A snapshot as the document that the page shows: plain lists, a column each, cells in one order.

What is long comes apart from it: the accuracies by position, cell by cell. Numbers have four
decimals; None is what is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels, transition_text
from metaphase.analysis.figures import outcomes, tiles
from metaphase.analysis.serving import snapshot as snapshots
from metaphase.analysis.serving.snapshot import IN_TRAINING, Condition, Snapshot
from metaphase.core import phase_rules, schema
from metaphase.sweeps import places
from metaphase.sweeps.store import sweepfile

OUTCOMES = (*outcomes.ORDER, IN_TRAINING)  # what a cell's number of an outcome is the place in
DECIMALS = 4
DISTANCE = "_relative_distance"  # ends the names of columns of distances from a predictor
MOST_TEXT = 2000  # characters of an error


def overview(found: Snapshot) -> dict[str, Any]:
    """All but the accuracies by position.

    Returns:
        `name`, `description`, `path`, `at` (seconds since 1970), `thresholds` by which phases are
        told (`delta`, `confidence`, and the `rule` in words, None: the usual one), `notes`,
        `running` (None: nobody runs it), `choices` (settings by which a condition is chosen),
        `conditions` (settings, transitions, what is expected of untrained points, edges of tiles),
        `cells` (a list a column; `condition` is a number of `conditions`, `outcome` one of
        `OUTCOMES`), `measures` (columns of cells and evaluations that maps can show), `evaluations`
        (those of cell i at places first[i] to first[i + 1]), `settings` (`common`, and `varying`, a
        list each), and `rerun`, to which a cell_id is appended.
    """
    cells = found.cells.reset_index(drop=True)
    place = {cell_id: i for i, cell_id in enumerate(cells["cell_id"])}
    condition = np.zeros(len(cells), dtype=int)
    for number, one in enumerate(found.conditions):
        condition[[place[cell_id] for cell_id in one.cells["cell_id"]]] = number
    measures = _measures(cells, found.evaluations)
    outcome = _outcomes(cells)
    common, varying = snapshots.varying(cells)
    grid = found.grid
    return {
        "name": grid.name,
        "description": grid.description,
        "path": found.path,
        "at": found.at,
        "thresholds": {
            "delta": found.thresholds.delta,
            "confidence": found.thresholds.confidence,
            "rule": found.thresholds.rule and _text(phase_rules.name_of(found.thresholds.rule)),
        },
        "notes": list(found.notes),
        "running": grid.by
        and {"by": grid.by, "left": grid.seconds_left, "packs": list(grid.packs)},
        "choices": snapshots.choices(found.conditions),
        "conditions": [_condition(one) for one in found.conditions],
        "measures": [{"key": key, "name": name} for key, name in measures.items()],
        "cells": {
            "id": cells["cell_id"].tolist(),
            "condition": condition.tolist(),
            "size": cells["model_size"].tolist(),
            "tasks": cells["num_tasks"].tolist(),
            "seed": cells["seed"].tolist(),
            "status": cells["status"].tolist(),
            "outcome": outcome["outcome"].tolist(),
            "decided": outcome["decided"].astype(int).tolist(),
            "strength": numbers(outcome["strength"]),
            "trained": _column(cells, "steps_trained", 0),
            "error": [_text(e) for e in cells.get("error", pd.Series([None] * len(cells)))],
            **{key: _column(cells, key) for key in measures},
        },
        "evaluations": _evaluations(found.evaluations, place, len(cells), measures),
        "settings": {
            "common": {name: _text(value) for name, value in common.items()},
            "varying": {name: [_text(v) for v in cells[name]] for name in varying},
        },
        "rerun": rerun(found.path),
    }


def curves(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A cell's accuracies by position.

    Args:
        rows: of the curves table, ordered by split and position.

    Returns:
        {split: {"position", "accuracy", "error"}}; `position` is None where it counts from 1, and
        `error` is the n of sequences where it is the binomial one, sqrt(p (1 - p) / (n - 1)).
    """
    told = {}
    for split, group in rows.groupby("split", sort=False):
        p = group["accuracy"].to_numpy(dtype=float)
        error, n = group["accuracy_se"].to_numpy(dtype=float), group["n"].to_numpy(dtype=float)
        position = group["position"].to_numpy()
        counted = np.array_equal(position, np.arange(1, len(position) + 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            usual = np.sqrt(p * (1 - p) / (n - 1))
        binomial = len(set(n.tolist())) == 1 and np.allclose(error, usual, atol=5e-5)
        told[str(split)] = {
            "position": None if counted else position.tolist(),
            "accuracy": numbers(p),
            "error": int(n[0]) if binomial else numbers(error),
        }
    return told


def all_curves(frame: pd.DataFrame, cell_ids: Sequence[str]) -> list[dict[str, Any]]:
    """What `curves` returns for each of the cells, {} where there is nothing.

    Args:
        frame: the curves table, from `analysis.load.load_curves`.
        cell_ids: in the document's order.
    """
    found = {cell_id: curves(rows) for cell_id, rows in frame.groupby("cell_id", sort=False)}
    return [found.get(cell_id, {}) for cell_id in cell_ids]


def rerun(path: str) -> str:
    """The command that trains a cell anew, up to the cell_id."""
    root, name = places.parent(path)
    preset = places.inside(path, sweepfile.NAME)
    command = ["metaphase", "run", preset, "--root", root, "--set", f"name={name}", "--force"]
    return shlex.join(command) + " "


def numbers(values: Iterable[Any], decimals: int = DECIMALS) -> list[float | None]:
    """Rounded, and None for what is no finite number."""
    array = np.round(np.asarray(values, dtype=float), decimals) + 0.0
    told = array.astype(object)
    told[~np.isfinite(array)] = None
    return told.tolist()


def _column(cells: pd.DataFrame, name: str, decimals: int = DECIMALS) -> list[float | None]:
    if name not in cells:
        return [None] * len(cells)
    return numbers(cells[name].to_numpy(dtype=float, na_value=np.nan), decimals)


def _measures(cells: pd.DataFrame, evaluations: pd.DataFrame) -> dict[str, str]:
    """{column: what it is} of the numbers of cells, at their end or before, that maps can show."""
    found = {}
    for name in map(str, cells.columns):
        if not any(name in table and table[name].notna().any() for table in (cells, evaluations)):
            continue
        if name.endswith(f"_{schema.LAST}"):
            split = name[: -len(schema.LAST) - 1].replace("_", " ")
            found[name] = f"accuracy, {split} tasks"
        elif name.endswith(DISTANCE):
            found[name] = name.replace("_", " ")
    first = [f"{split}_{schema.LAST}" for split in (schema.UNSEEN, schema.SEEN, schema.TRAIN)]
    order = [*(name for name in first if name in found), *found]
    return {name: found[name] for name in dict.fromkeys(order)}


def _outcomes(classified: pd.DataFrame) -> pd.DataFrame:
    """`figures.outcomes.of_cells`, the outcome as a number."""
    found = outcomes.of_cells(classified)
    number = {name: i for i, name in enumerate(OUTCOMES)}
    return found.assign(outcome=found["outcome"].astype(object).map(number).astype(int))


def _condition(one: Condition) -> dict[str, Any]:
    words = labels.condition_words(one.settings)
    edges = {
        axis: [
            [value, *numbers(sides)] for value, sides in tiles.tile_edges(one.cells[name]).items()
        ]
        for axis, name in (("x", "num_tasks"), ("y", "model_size"))
    }
    marks = [
        {
            "size": int(row["model_size"]),
            "begins": str(row["begins"]),
            "boundary": str(row["boundary"]),
            "text": transition_text.place(row),
            "at": None if not row["clear"] else numbers([row["log2_num_tasks"]])[0],
            "low": numbers([row["low"]])[0],
            "high": numbers([row["high"]])[0],
        }
        for row in one.transitions.to_dict("records")
    ]
    settings = {name: _text(value) for name, value in one.settings.items()}
    expected = []
    if one.expected is not None:
        of = one.expected
        columns = of["model_size"], of["num_tasks"], of["phase"], numbers(of["share"])
        expected = [[int(n), int(k), str(p), s] for n, k, p, s in zip(*columns, strict=True)]
    return {
        "words": words,
        "settings": settings,
        "transitions": marks,
        "expected": expected,
        **edges,
    }


def _evaluations(
    rows: pd.DataFrame, place: dict[str, int], cells: int, measures: Iterable[str]
) -> dict[str, Any]:
    rows = rows.assign(_place=rows["cell_id"].map(place)).sort_values(["_place", "step"])
    found = _outcomes(rows)
    return {
        "first": np.searchsorted(rows["_place"], np.arange(cells + 1)).tolist(),
        "step": rows["step"].astype(int).tolist(),
        "outcome": found["outcome"].tolist(),
        "decided": found["decided"].astype(int).tolist(),
        "strength": numbers(found["strength"]),
        **{name: _column(rows, name) for name in measures},
    }


def _text(value: Any) -> str | None:
    """A setting or an error in words; None for what is missing."""
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))  # a column of whole numbers of which some are missing
    return str(value)[:MOST_TEXT]
