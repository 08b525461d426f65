"""Tables of what figures show, as commands write them: CSV, and LaTeX for papers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from metaphase.analysis import transition_text
from metaphase.analysis.statistics import phases
from metaphase.core import schema
from metaphase.core.phases import PHASES
from metaphase.core.predictor_phases import REASONS

Conditions = Sequence[tuple[dict[str, object], pd.DataFrame]]
"""As from `analysis.statistics.phases.split_conditions`."""

_SPLITS = (schema.SEEN, schema.UNSEEN)
CELL_COLUMNS = (
    "cell_id", "architecture", "model_size", "num_tasks", "seed", "status", "phase", "chance", "n",
    *schema.statistics_columns(_SPLITS),
)  # fmt: skip
_DECIDED = ("decided", "on_plateau", *REASONS, "unseen_level", "seen_lead")


def phases_table(classified: pd.DataFrame, conditions: Conditions) -> pd.DataFrame:
    """A row a cell: its phase, whether that is decided, the settings that tell conditions apart,
    statistics with their errors, what the rule says beside the phase, and the ends of the intervals
    that decide it."""
    intervals = [
        name for name in classified
        if str(name).endswith(("_low", "_high")) and name not in CELL_COLUMNS
    ]  # fmt: skip
    decided = [name for name in _DECIDED if name in classified]
    told = conditions[0][0] if conditions else ()
    own = classified.attrs.get(phases.OF_RULE, ())
    return classified[list(dict.fromkeys([*CELL_COLUMNS, *decided, *told, *own, *intervals]))]


def grid_table(group: pd.DataFrame) -> pd.DataFrame:
    """A row a grid point of one condition: phases, how seeds split, and for each split the mean
    `<split>_last`, the `_lowest` and the `_highest` seed."""
    points = phases.summarize_grid(group)
    done = group[group["status"] == schema.DONE].groupby(phases.GRID_POINT)
    for split in _SPLITS:
        name = f"{split}_{schema.LAST}"
        found = done[name].agg(["mean", "min", "max"])
        found.columns = pd.Index([name, f"{name}_lowest", f"{name}_highest"])
        points = points.join(found, on=phases.GRID_POINT)
    return points


def of_conditions(tables: Sequence[tuple[dict[str, object], pd.DataFrame]]) -> pd.DataFrame:
    """One table a condition below each other, with the settings that tell them apart in front."""
    parts = []
    for condition, table in tables:
        told = {name: value for name, value in condition.items() if name not in table}
        front = pd.DataFrame(told, index=table.index)
        parts.append(pd.concat([front, table], axis="columns") if told else table)
    return pd.concat(parts, ignore_index=True)


def latex_transitions(found: pd.DataFrame) -> str:
    """A booktabs table of `transitions.estimate_transitions`: a row a model size, a column for each
    boundary of a phase, with intervals."""
    rows: dict[Hashable, dict[str, str]] = {}
    for row in found.to_dict("records"):
        column = f"{row['begins']} {row['boundary']}s"
        at = rows.setdefault(row["model_size"], {})
        at[column] = _mathematics(transition_text.place(row))
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    table.insert(0, "model size", table.index)
    return _booktabs(table.fillna("--"))


def latex_grid(points: pd.DataFrame) -> str:
    """A booktabs table of `grid_table`: the phase of most seeds and the mean accuracies."""
    names = {f"{split}_{schema.LAST}": f"accuracy, {split}" for split in _SPLITS}
    table = points[["model_size", "num_tasks", "phase", "agreement", "seeds", *names]]
    table = table.rename(columns=names).rename(columns=lambda name: name.replace("_", " "))
    table = table.astype({"phase": str})
    table["phase"] = table["phase"].where(table["phase"].isin(PHASES), "--")
    return _booktabs(table)


def _mathematics(text: str) -> str:
    """2^12.4 as $2^{12.4}$."""
    words = []
    for word in text.split(" "):
        core = word.strip("()")
        if "^" in core:
            base, exponent = core.split("^")
            word = word.replace(core, f"${base}^{{{exponent}}}$")
        words.append(word)
    return " ".join(words)


def _booktabs(table: pd.DataFrame) -> str:
    options: dict[str, Any] = {"index": False, "escape": False, "float_format": "%.3f"}
    return table.to_latex(na_rep="--", **options)
