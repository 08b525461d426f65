"""Known learning algorithms on the sequences that cells are evaluated on, beside the cells.

Reads the table that `metaphase yardsticks` writes; where there is none, everything is drawn and
told without. Yardsticks have no phases and aren't bimodal, so seeds are pooled: accuracies are
means over the sequences of all seeds, errors those of such a mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE = 0.95
CHANCE = "chance"  # drawn with the cells, which know it
NAMES = {
    "nearest_neighbour": "nearest neighbour",
    "ridge": "ridge regression",
    "logistic": "logistic regression",
    "mlp": "MLP from scratch",
    CHANCE: "chance",
}
# Told apart by dashes and symbols in black and white, and by colours that no learning curve has.
LOOKS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"color": "#000000", "ls": (0, (5, 1.5)), "marker": "o"},
    "ridge": {"color": "#7f3b08", "ls": (0, (1, 1)), "marker": "s"},
    "logistic": {"color": "#c44e00", "ls": (0, (3, 1, 1, 1)), "marker": "^"},
    "mlp": {"color": "#cc79a7", "ls": (0, (8, 1.5, 1, 1.5)), "marker": "D"},
}
_LABEL_HEIGHT = 0.105  # of the axis, that a label at a line's end needs


def of_cells(yardsticks: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of the yardsticks table for the very sequences of these cells.

    Args:
        yardsticks: from `analysis.load.load_yardsticks`.
        cells: from `analysis.load.load_cells`.
    """
    keys = list(schema.YARDSTICK_SETTINGS)
    if yardsticks.empty or not {*keys, "eval_sequences"} <= set(cells):
        return yardsticks.iloc[:0]
    of_interest = cells[[*keys, "eval_sequences"]].rename(columns={"eval_sequences": "n"})
    return yardsticks.merge(of_interest.drop_duplicates(), on=[*keys, "n"])


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
        A row for each (dataset, yardstick, tested_on), `dataset` being the cells': `accuracy`,
        `low`, `high` (as above, positions taken as wholly correlated, so the interval is rather
        too wide), `seeds`.
    """
    rows = of_cells(yardsticks, cells)
    tenth = rows["sequence_length"].map(lambda T: T - math.ceil(T / 10)).astype(float)
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


def describe(table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """`last_table` as text, with the best cell of each base dataset beside it."""
    lines = [f"known algorithms on the same sequences of new tasks ({CONFIDENCE:.0%} interval)"]
    several = table["dataset"].nunique() > 1
    for row in table.to_dict("records"):
        where = f"{row['dataset']} to {row['tested_on']}" if several else str(row["tested_on"])
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] < row["high"] else ""
        name = NAMES.get(row["yardstick"], row["yardstick"])
        lines.append(f"  {name:20} {where:24} {row['accuracy']:.3f}{interval}")
    done = cells[(cells["status"] == schema.DONE) & cells["unseen_last"].notna()]
    for dataset, group in done.groupby("dataset"):
        best = group.sort_values("unseen_last").iloc[-1]
        lines.append(
            f"  {'best cell':20} {dataset!s:24} {best['unseen_last']:.3f} ({best['architecture']}, "
            f"model size {best['model_size']}, {best['num_tasks']} tasks, seed {best['seed']})"
        )
    return "\n".join(lines)


def _pool(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over seeds, equally many sequences each, with intervals."""
    groups = rows.assign(variance=rows["accuracy_se"].astype(float) ** 2).groupby(keys)
    table = pd.DataFrame(
        {"accuracy": groups["accuracy"].mean().astype(float), "seeds": groups["accuracy"].count()}
    )
    error = np.sqrt(groups["variance"].sum().to_numpy(dtype=float)) / table["seeds"].to_numpy()
    half = special.ndtri((1 + CONFIDENCE) / 2) * error
    return table.assign(
        low=(table["accuracy"] - half).clip(0, 1), high=(table["accuracy"] + half).clip(0, 1)
    )


def draw_curves(table: pd.DataFrame, ax: Axes) -> list[Any]:
    """Lines from `curves_table`, each with its dashes and symbols; chance is left out.

    Returns:
        The lines, labelled.
    """
    lines = []
    for i, (name, look) in enumerate(LOOKS.items()):
        rows = table[table["yardstick"] == name].sort_values("examples_seen")
        if len(rows):
            lines += ax.plot(
                rows["examples_seen"], rows["accuracy"], **look, **_SYMBOL, zorder=2.5,
                label=NAMES[name], markevery=(i, len(LOOKS)),  # symbols side by side where equal
            )  # fmt: skip
    return lines


_SYMBOL: dict[str, Any] = {"lw": 0.9, "ms": 3.5, "mfc": "white", "mew": 0.8}


def label_ends(lines: list[Any], ax: Axes) -> None:
    """Names of lines from `draw_curves` right of the panel, as near to their ends as they fit."""
    from matplotlib import transforms

    looks = {NAMES[name]: look for name, look in LOOKS.items()}
    lines = sorted(lines, key=lambda line: line.get_ydata()[-1])
    ends = np.array([line.get_ydata()[-1] for line in lines], dtype=float)
    points = transforms.Affine2D().scale(1 / 72) + ax.figure.dpi_scale_trans
    right_of_panel = points + transforms.ScaledTranslation(
        1, 0, transforms.BboxTransformTo(ax.bbox)
    )
    beside = transforms.blended_transform_factory(right_of_panel, ax.transData)
    for line, y in zip(lines, spread_out(ends, _LABEL_HEIGHT, 0.03, 0.97), strict=True):
        end = line.get_xdata()[-1], line.get_ydata()[-1]
        leader = {"arrowstyle": "-", "lw": 0.4, "color": line.get_color(), "shrinkA": 0}
        ax.annotate("", end, (10, y), textcoords=beside, arrowprops=leader)
        ax.plot([10, 20, 30], [y] * 3, transform=beside, clip_on=False, markevery=[1],
                **looks[line.get_label()], **_SYMBOL)  # fmt: skip
        ax.text(34, y, str(line.get_label()), transform=beside, size=7, va="center")


def spread_out(values: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The places nearest to ascending values (least squares) with a gap between neighbours.

    Args:
        values: ascending, shape (n,).
        gap: least distance of neighbours.
        low, high: bounds of all, at least (n - 1) gaps apart.
    """
    from scipy import optimize  # here, as it is slow to import and seldom needed

    steps = gap * np.arange(len(values))
    return optimize.isotonic_regression(values - steps).x.clip(low, high - steps[-1:]) + steps
