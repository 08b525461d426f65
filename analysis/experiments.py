"""Figures and tables across a whole sweep, for the questions it was made for.

Each applies only to sweeps that can answer it: `find` says which do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis import generalization
from core import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS: dict[str, str] = {}


@dataclass(frozen=True)
class Experiment:
    """What a sweep has to say about one question."""

    name: str  # of its files
    text: str
    table: pd.DataFrame
    figure: Callable[[], Figure] | None  # to be called with matplotlib's style set


def find(cells: pd.DataFrame, history: pd.DataFrame) -> list[Experiment]:
    """All that apply to the sweep, from `load_cells` and `load_history`."""
    found = [_generalization(cells, history)]
    return [experiment for experiment in found if experiment is not None]


def _generalization(cells: pd.DataFrame, history: pd.DataFrame) -> Experiment | None:
    """Applies where cells were tested on other datasets."""
    if not history["split"].str.startswith(f"{schema.UNSEEN}/").any():
        return None
    table = generalization.generalization_table(cells, history)
    if table.empty:
        return None
    return Experiment("generalization", generalization.describe(table), table, None)
