"""Learning curves within the sequence: accuracy against examples seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaphase.analysis.figures import style, yardstick_lines
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.intervals import accuracy_interval
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema

MOST_SIZES, MOST_CURVES = 4, 7  # panels in a row, numbers of tasks in a panel


def curve_table(curves: pd.DataFrame, classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy against examples seen, of every finished cell.

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
        split: any split of the curves, `unseen/<dataset>` included.

    Returns:
        A row for each (model_size, num_tasks, seed, examples_seen): `accuracy` and the ends `low`
        and `high` of its 95% interval (normal, over sequences). Seeds are not averaged: close to a
        transition they are bimodal, and no model learns along their mean.
    """
    require_one_condition(classified)
    keys = ["model_size", "num_tasks", "seed"]
    done = classified.loc[classified["status"] == schema.DONE, ["cell_id", *keys]]
    rows = curves[curves["split"] == split].merge(done, on="cell_id")
    low, high = accuracy_interval(rows["accuracy"], rows["accuracy_se"])
    rows = rows.assign(examples_seen=rows["position"] - 1, low=low, high=high)
    keys.append("examples_seen")
    return rows[[*keys, "accuracy", "low", "high"]].sort_values(keys, ignore_index=True)


def draw(
    table: pd.DataFrame, ax: Axes, num_tasks: Sequence[float], chance: float | None = None
) -> Axes:
    """Learning curves of one model size: a colour a number of tasks, a line with band a seed.

    Args:
        table: rows of `curve_table` with one model size.
        ax: where to draw.
        num_tasks: which to draw; their order sets the colours, so panels agree.
        chance: accuracy of always guessing the commonest class; a dotted line.
    """
    ax.set_ylim(0, 1)  # first, so that it isn't fitted to every line
    colors = style.sequence_colors(num_tasks)
    for tasks in num_tasks:
        ax.plot([], [], color=colors[tasks], label=style.power_of_two(tasks))
        rows = table[table["num_tasks"] == tasks].sort_values(["seed", "examples_seen"])
        ends = np.flatnonzero(np.diff(rows["seed"])) + 1
        x, low, high, accuracy = (  # all seeds at once, which costs little; a NaN between them
            np.insert(rows[name].to_numpy(dtype=float), ends, np.nan)
            for name in ("examples_seen", "low", "high", "accuracy")
        )
        ax.fill_between(x, low, high, color=colors[tasks], alpha=0.15, lw=0)
        ax.plot(x, accuracy, color=colors[tasks], lw=0.9)
    if chance is not None:
        style.draw_chance(ax, chance)
    return ax


def figure(
    curves: pd.DataFrame,
    classified: pd.DataFrame,
    title: str = "",
    yardsticks: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy against examples seen: a row a split, a column a model size (at most 4).

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
        title: above all panels.
        yardsticks: from `analysis.load.load_yardsticks`; drawn where they are for a split.
    """
    done = classified[classified["status"] == schema.DONE]
    own = curves.loc[curves["cell_id"].isin(done["cell_id"]), "split"].unique()
    others = [split for split in sorted(own) if split.startswith(f"{schema.UNSEEN}/")]
    splits = [schema.SEEN, schema.UNSEEN, *others]
    sizes = style.spread(done["model_size"], MOST_SIZES)
    num_tasks = style.spread(done["num_tasks"], MOST_CURVES)
    width = {1: 3.4, 2: 2.5}.get(len(sizes), 1.8)  # inches a panel
    margin = 0.6 if yardsticks is None or yardsticks.empty else 2.0  # for their names
    whole = Figure(
        figsize=(margin + width * len(sizes), 1.1 + 1.7 * len(splits)), layout="constrained"
    )
    axes = whole.subplots(len(splits), len(sizes), sharex=True, sharey=True, squeeze=False)
    for row, split in zip(axes, splits, strict=True):
        table = curve_table(curves, done, split)
        for ax, size in zip(row, sizes, strict=True):
            draw(table[table["model_size"] == size], ax, num_tasks, done["chance"].mean())
            if yardsticks is not None:
                known = yardstick_lines.draw(yards.curves_table(yardsticks, done, split), ax)
                if known and ax is row[-1]:
                    yardstick_lines.label_ends(known, ax)
        row[0].set_ylabel(f"accuracy,\n{split} tasks")
    for ax, size in zip(axes[0], sizes, strict=True):
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {style.power_of_two(size)}")
    for ax in axes[-1]:
        ax.set_xlabel("examples seen")
    handles, names = axes[0, 0].get_legend_handles_labels()
    whole.legend(
        handles, names, loc="outside lower center", title=style.NUM_TASKS_LABEL,
        ncols=len(names), handlelength=1.5, columnspacing=1.2,
    )  # fmt: skip
    style.title_above(whole, title)
    return whole
