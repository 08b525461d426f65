"""Generalization: how accurate is a model on every dataset that it was tested on?

`unseen` is new tasks on the dataset that a cell was trained on, `unseen/<dataset>` on another one.
Accuracies are `last` (the last tenth of the positions) at the last evaluation of finished cells:
means over seeds, with Student's t interval (n - 1 degrees of freedom; none for a single seed).
Asked where cells were tested on other datasets.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.intervals import CONFIDENCE, t_half_width
from metaphase.analysis.statistics.phases import level_of_split
from metaphase.analysis.statistics.settings import GRID, varying_settings
from metaphase.core import schema

T_INTERVAL = f"half the {CONFIDENCE:.0%} t interval over seeds"  # as tables explain their ±


def find(
    cells: pd.DataFrame, history: pd.DataFrame, yardsticks: pd.DataFrame | None
) -> Iterator[Answer]:
    """An answer if cells were tested on other datasets."""
    if not history["split"].astype(str).str.startswith(f"{schema.UNSEEN}/").any():
        return
    table = generalization_table(cells, history)
    if not table.empty:
        beside = None if yardsticks is None else yards.last_table(yardsticks, cells)
        yield Answer("generalization", describe(table, beside), table)


def generalization_table(cells: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by dataset, from `load_cells` and `load_history`.

    Returns:
        A row for each (dataset, architecture, model_size, num_tasks, further settings that vary)
        and `tested_on`: `accuracy`, `low`, `high` (NaN with one seed), `seeds`, `level`
        (what naming the commonest label so far reaches there). The dataset trained on comes first,
        then the others by name.
    """
    last = history[history["step"] == history.groupby("cell_id")["step"].transform("max")]
    rows = last.rename(columns={schema.LAST: "accuracy", f"{schema.LAST}_se": "accuracy_se"})
    return mean_over_seeds(cells, rows).drop(columns="accuracy_se")


def mean_over_seeds(cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of finished cells on new tasks, by dataset tested on.

    Args:
        cells: from `load_cells`.
        rows: `cell_id`, `split`, `accuracy`, `accuracy_se`: a row a cell and split.

    Returns:
        As `generalization_table`, with `accuracy_se`, the mean's standard error over the sequences
        of all seeds.
    """
    keys = [*GRID, *varying_settings(cells)]
    done = cells[cells["status"] == schema.DONE]
    rows = rows[rows["split"].str.startswith(schema.UNSEEN)]
    rows = rows.merge(done[["cell_id", *keys]], on="cell_id")
    rows["tested_on"] = rows["dataset"].where(
        rows["split"] == schema.UNSEEN, rows["split"].str.removeprefix(f"{schema.UNSEEN}/")
    )
    order = [*keys, "tested_on", "accuracy", "accuracy_se", "low", "high", "seeds", "level"]
    if rows.empty:
        return pd.DataFrame(columns=order)
    levels = {s: level_of_split(done.set_index("cell_id"), s) for s in rows["split"].unique()}
    pairs = zip(rows["split"], rows["cell_id"], strict=True)
    rows["level"] = [levels[split][cell_id] for split, cell_id in pairs]
    rows["variance"] = rows["accuracy_se"].astype(float) ** 2
    groups = rows.groupby([*keys, "tested_on"], dropna=False)
    value = groups["accuracy"]
    table = pd.DataFrame(
        {"accuracy": value.mean().astype(float), "sd": value.std(), "seeds": value.count(),
         "variance": groups["variance"].sum(), "level": groups["level"].mean()}
    )  # fmt: skip
    table["accuracy_se"] = np.sqrt(table["variance"]) / table["seeds"]
    half = t_half_width(table.pop("sd").to_numpy(), table["seeds"].to_numpy())
    table["low"], table["high"] = table["accuracy"] - half, table["accuracy"] + half
    table = table.reset_index()
    elsewhere = table["tested_on"] != table["dataset"]
    table = table.assign(elsewhere=elsewhere).sort_values([*keys, "elsewhere", "tested_on"])
    return table[order].reset_index(drop=True)


def label(row: dict[Hashable, Any], table: pd.DataFrame) -> str:
    """What a row is of: architecture, model size, and what else varies in the table."""
    parts = [str(row["architecture"]), f"size {row['model_size']}"]
    if table["num_tasks"].nunique() > 1:
        parts.append(f"N {labels.power_of_two(row['num_tasks'])}")
    if table["dataset"].nunique() > 1:
        parts.insert(0, f"{row['dataset']}:")
    fixed = {*GRID, "tested_on", "accuracy", "accuracy_se", "low", "high", "seeds", "level"}
    parts += [f"{k}={row[k]:g}" if isinstance(row[k], float) else f"{k}={row[k]}"
              for k in table.columns if k not in fixed]  # fmt: skip
    return " ".join(parts)


def describe(table: pd.DataFrame, yardsticks: pd.DataFrame | None = None) -> str:
    """The table in text: a row a model, a column a dataset tested on.

    Args:
        table: from `generalization_table`.
        yardsticks: from `analysis.statistics.yardsticks.last_table`; rows below.
    """
    names = list(dict.fromkeys(table["tested_on"]))
    rows: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        half = (row["high"] - row["low"]) / 2
        text = f"{row['accuracy']:.3f}" + (f" ± {half:.3f}" if half == half else "")
        rows.setdefault(label(row, table), {})[row["tested_on"]] = text
    for row in [] if yardsticks is None else yardsticks.to_dict("records"):
        name = yards.NAMES.get(row["yardstick"], row["yardstick"])
        name = f"{row['dataset']}: {name}" if table["dataset"].nunique() > 1 else name
        rows.setdefault(name, {})[row["tested_on"]] = f"{row['accuracy']:.3f}"
    margin = max(map(len, rows), default=0)
    width = max(15, *(len(name) + 2 for name in names))
    return "\n".join(
        [
            f"accuracy on new tasks by dataset (±: {T_INTERVAL})",
            " " * (margin + 2) + "".join(f"{name:>{width}}" for name in names),
            *(
                f"  {name:<{margin}}" + "".join(f"{texts.get(k, '.'):>{width}}" for k in names)
                for name, texts in rows.items()
            ),
        ]
    )
