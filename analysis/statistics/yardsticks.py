"""Known learning algorithms on the sequences that cells are evaluated on: pooled over seeds.

Reads the table that `metaphase yardsticks` writes. Yardsticks have no phases and aren't bimodal, so
seeds are pooled: accuracies are means over the sequences of all seeds, errors those of such a mean.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.statistics.intervals import accuracy_interval
from metaphase.core import schema
from metaphase.core.label_counts import last_positions

CHANCE = "chance"  # drawn with the cells, which know it
NAMES = {
    "nearest_neighbour": "nearest neighbour",
    "ridge": "ridge regression",
    "logistic": "logistic regression",
    "mlp": "MLP from scratch",
    "label_counts": "label counts",
    "bigram_counts": "bigram counts",
    CHANCE: "chance",
}  # as they are written in texts and figures


def of_cells(yardsticks: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of the yardsticks table for the very sequences of these cells, whose `dataset` is as
    `trained_on` has it.

    Args:
        yardsticks: from `analysis.load.load_yardsticks`.
        cells: from `analysis.load.load_cells`.
    """
    if yardsticks.empty or not {*schema.YARDSTICK_SETTINGS, "eval_sequences"} <= set(cells):
        return yardsticks.iloc[:0]
    found, named = [], cells.assign(place=trained_on(cells, yardsticks))
    for family, rows in yardsticks.groupby(_family(yardsticks)):
        of_family = named[_is_of(named, family)]
        keys = [*schema.YARDSTICK_SETTINGS, *_own(rows)] if family else schema.YARDSTICK_SETTINGS
        if family:  # those of images are null in its cells
            keys = [key for key in keys if key in named and of_family[key].notna().all()]
        ours = of_family[[*keys, "eval_sequences", "place"]].drop_duplicates()
        if len(ours):
            ours = ours.rename(columns={"eval_sequences": "n"})
            found.append(rows.merge(ours, on=[*keys, "n"]))
    if not found:
        return yardsticks.iloc[:0]
    joined = pd.concat(found, ignore_index=True)
    return joined.assign(dataset=joined["place"]).drop(columns="place")


def trained_on(cells: pd.DataFrame, yardsticks: pd.DataFrame) -> pd.Series:
    """What each cell is trained on: its base dataset or, where there are no images, its family and
    those of the family's settings that vary.

    Args:
        cells, yardsticks: as for `of_cells`.
    """
    places = cells["dataset"].astype(object)
    for family, rows in yardsticks.groupby(_family(yardsticks)):
        if family:
            of_family = cells[_is_of(cells, family)]
            names = pd.Series(str(family), of_family.index, dtype=object)
            for key in _own(rows):
                if key in of_family and of_family[key].nunique() > 1:
                    names += f" {key}=" + of_family[key].map(labels.plain_name)
            places[of_family.index] = names
    return places


def _family(yardsticks: pd.DataFrame) -> pd.Series:
    """Each row's task family; empty where it is images, which the rows don't say."""
    if "task_family" not in yardsticks:
        return pd.Series("", yardsticks.index)
    return yardsticks["task_family"].astype(object).fillna("")


def _is_of(cells: pd.DataFrame, family: object) -> pd.Series:
    """Whether cells are of this family; of the empty one those are that have a dataset."""
    return cells["task_family"] == family if family else cells["dataset"].notna()


def _own(rows: pd.DataFrame) -> list[str]:
    """The settings of their own that rows of one family have."""
    more = set(rows) - {*schema.YARDSTICK_COLUMNS, "task_family"}
    return sorted(str(key) for key in more if rows[key].notna().all())


def curves_table(yardsticks: pd.DataFrame, cells: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy against examples seen, on a split of the cells' sequences.

    Returns:
        A row for each (yardstick, examples_seen): `accuracy`, and the ends `low` and `high` of its
        95% interval (normal, over the sequences of all seeds). Several base datasets or lengths
        among the cells are averaged: pass the cells of one condition.
    """
    rows = of_cells(yardsticks, cells)
    rows = rows[rows["split"] == split]
    pooled = _pool(rows, ["yardstick", "position"]).reset_index()
    pooled["examples_seen"] = pooled["position"] - 1
    return pooled[["yardstick", "examples_seen", "accuracy", "low", "high"]]


def last_table(yardsticks: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy over the last tenth of the positions, as `last` of the cells has it.

    Of long sequences only some positions are evaluated: the mean is over those in the last tenth.

    Returns:
        A row for each (dataset, yardstick, tested_on), `dataset` as in `of_cells`: `accuracy`,
        `low`, `high` (as above, positions taken as wholly correlated, so the interval is rather
        too wide), `seeds`.
    """
    rows = of_cells(yardsticks, cells)
    tenth = rows["sequence_length"].map(lambda T: T - last_positions(T)).astype(float)
    rows = rows[rows["position"] > tenth]
    other = rows["split"].str.removeprefix(f"{schema.UNSEEN}/")
    rows = rows.assign(tested_on=other.where(other != rows["split"], rows["dataset"]))
    keys = ["dataset", "yardstick", "tested_on", *schema.YARDSTICK_SETTINGS[1:], "n"]
    mean = rows.groupby(keys, as_index=False)[["accuracy", "accuracy_se"]].mean()
    pooled = _pool(mean, ["dataset", "yardstick", "tested_on"]).reset_index()
    order = {name: i for i, name in enumerate(NAMES)}
    pooled = pooled.sort_values(
        ["dataset", "yardstick", "tested_on"],
        key=lambda column: column.map(order) if column.name == "yardstick" else column,
        ignore_index=True,
    )
    columns = ["dataset", "yardstick", "tested_on", "accuracy", "low", "high", "seeds"]
    return pooled[columns]


def _pool(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over seeds, each of equally many sequences, with intervals."""
    groups = rows.assign(variance=rows["accuracy_se"].astype(float) ** 2).groupby(keys)
    table = pd.DataFrame(
        {"accuracy": groups["accuracy"].mean().astype(float), "seeds": groups["accuracy"].count()}
    )
    error = np.sqrt(groups["variance"].sum()) / table["seeds"]
    low, high = accuracy_interval(table["accuracy"], error)
    return table.assign(low=low, high=high)
