"""Whether a state is one that a cell's training can continue from.

A checkpoint comes from a file: its checksum says that it is what somebody wrote, not that it was
this program, or for this cell.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, PER_REPLICA, Cell
from metaphase.core.evaluation import METRICS
from metaphase.core.training.stack import Stack


def check_state(cell: Cell, state: Any) -> None:
    """Raises ValueError, with a line that says why, unless `state` has the form of what
    `core.training.trainer.PackTrainer.states` returns for this cell and can stand for its training
    up to `state["step"]`."""
    if not isinstance(state, dict):
        raise ValueError(f"it is {type(state).__name__}, not a dict")
    if state.get("cell_id") != cell.cell_id:
        raise ValueError("it belongs to another cell")
    numerics = state.get("numerics", 1)
    if numerics != NUMERICS:
        raise ValueError(f"it is of numerics {numerics!r}, this program of {NUMERICS}")
    step = state.get("step")
    if type(step) is not int or not 0 <= step <= cell.steps:
        raise ValueError(f"its step is {step!r}; allowed: 0 to {cell.steps}")
    same: dict[str, Any] = {f.name: f.default for f in fields(Cell) if f.name in PER_REPLICA}
    form = _form(replace(cell, **same))
    missing = [name for name in (*form, "history", "wall_seconds") if name not in state]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, due in form.items():
        if (found := _kind(state[name])) != due:
            raise ValueError(f"its {name} is {found}, not {due}")
    seconds = state["wall_seconds"]
    if type(seconds) not in (int, float) or not 0 <= seconds <= 2**53:
        raise ValueError("its wall_seconds is no number of seconds")
    for name in ("diverged_at", "plateau_steps"):
        if not -1 <= state[name] <= step:
            raise ValueError(f"its {name} is {state[name]}; allowed: -1 to {step}")
    _check_history(cell, state["history"], step)


def _kind(value: Any) -> str:
    """A value's type; for a tensor everything about it that has to fit."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {tuple(value.shape)} {value.layout} on {value.device}"


def _check_history(cell: Cell, history: Any, step: int) -> None:
    """Checks that the history has each split once for every evaluation up to the step, with all
    columns of its metrics and, beside them, nothing but what predictors tell."""
    evaluated = cell.eval_steps[: bisect_right(cell.eval_steps, step)]
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ValueError("its history is not a list of rows")
    further = schema.with_standard_errors(tuple(METRICS[name].column for name in cell.metrics))
    columns = {*schema.HISTORY_COLUMNS, *further}
    for row in history:
        told = row.keys() - columns
        if (
            row.get("cell_id") != cell.cell_id
            or not columns <= row.keys()
            or not all(
                isinstance(name, str) and schema.OF_PREDICTORS.fullmatch(name) for name in told
            )
        ):
            raise ValueError("its history has rows that are none of this cell's")
        names = columns - {"cell_id", "split"} | {name for name in told if row[name] is not None}
        if any(type(row[name]) is not (int if name in ("step", "n") else float) for name in names):
            raise ValueError("its history has what is no number, or one of another type")
        for name in schema.HISTORY_COLUMNS:
            low, high = schema.bounds(name) or (-math.inf, math.inf)
            if name in names and (row[name] < low or row[name] > high):  # NaN is neither
                raise ValueError(f"its history's {name} is out of range")
    found = [(row["step"], row["split"]) for row in history]
    due = [(at, split) for at in evaluated for split in cell.splits]
    last_is_due = step == cell.steps and found == [place for place in due if place[0] != step]
    if found != due and not last_is_due:  # which a restored pack makes
        raise ValueError(f"its history doesn't reach from the start to step {step}")


@functools.lru_cache(maxsize=16)
def _form(cell: Cell) -> dict[str, str]:
    """The kind of each entry in a state of the cell's stacked model."""
    with torch.device("cpu"):  # whatever device the caller makes tensors on
        [state] = Stack([cell], torch.device("cpu")).states()
    return {name: _kind(value) for name, value in state.items()}
