"""How far are the models from learning algorithms that people wrote, on the same sequences?

Asked where `metaphase yardsticks` has run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core import schema


def find(cells: pd.DataFrame, yardsticks: pd.DataFrame | None) -> Iterator[Answer]:
    """An answer if known algorithms were run on the cells' sequences."""
    if yardsticks is None or yardsticks.empty:
        return
    table = yards.last_table(yardsticks, cells)
    if not table.empty:
        places = yards.trained_on(cells, yardsticks)
        yield Answer("yardsticks", describe(table, cells.assign(dataset=places)), table)


def describe(table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """`last_table` as text, with the best cell of each `dataset` (its) beside it."""
    several = (table["dataset"] != table["tested_on"]).any() and table["dataset"].nunique() > 1
    lines = [f"known algorithms on the same sequences of new tasks ({CONFIDENCE:.0%} interval)"]
    for row in table.to_dict("records"):
        to, dataset = row["tested_on"], row["dataset"]
        where = f"{dataset} to {to}" if several and to != dataset else str(to)
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] < row["high"] else ""
        name = yards.NAMES.get(row["yardstick"], row["yardstick"])
        lines.append(f"  {name:20} {where:24} {row['accuracy']:.3f}{interval}")
    done = cells[(cells["status"] == schema.DONE) & cells["unseen_last"].notna()]
    for dataset, group in done.groupby("dataset"):
        best = group.sort_values("unseen_last").iloc[-1]
        lines.append(
            f"  {'best cell':20} {dataset!s:24} {best['unseen_last']:.3f} ({best['architecture']}, "
            f"model size {best['model_size']}, {best['num_tasks']} tasks, seed {best['seed']})"
        )
    return "\n".join(lines)
