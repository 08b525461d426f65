"""Seeds near the transition: where, at each number of tasks, does every seed end?

Near the transition seeds are bimodal, which means over seeds hide. Asked where three or more seeds
ran at three or more numbers of tasks. Whether there are two modes is asked by itself, in
`analysis.questions.modes`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases
from metaphase.core import schema
from metaphase.core.phases import GENERALIZING, PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = "Accuracy on unseen tasks at the last tenth of the positions: a dot a seed."
FEWEST = 3  # seeds, and numbers of tasks
MOST_PANELS = 4  # model sizes that are drawn
SPREAD = 0.15  # between the best and the worst seed: told, though all may be in one phase
_DISAGREE_COLOR = "#f0e6f5"
_DOT: dict[str, Any] = {"s": 10, "edgecolor": "#444444", "linewidth": 0.35}


def find(classified: pd.DataFrame) -> Iterator[Answer]:
    """An answer for each condition with enough seeds."""
    for condition, group in phases.split_conditions(classified):
        done = group[group["status"] == schema.DONE]
        if done["num_tasks"].nunique() < FEWEST or done["seed"].nunique() < FEWEST:
            continue
        table = seed_table(done)
        title = labels.title(classified, condition)
        yield Answer(
            f"seeds{labels.file_suffix(condition)}", describe(table, title), table,
            functools.partial(figure, table, title), CAPTION,
        )  # fmt: skip


def seed_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Every finished seed of a condition: model_size, num_tasks, seed, phase, accuracy, chance.

    `accuracy` is that on unseen tasks; `split` says whether seeds of its grid point disagree on
    generalizing.
    """
    phases.require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    table = done[["model_size", "num_tasks", "seed", "phase", "chance"]].assign(
        accuracy=done["unseen_last"].astype(float)
    )
    table["phase"] = table["phase"].astype(str)
    reached = (table["phase"] == GENERALIZING).groupby([table["model_size"], table["num_tasks"]])
    table["split"] = reached.transform("nunique") > 1
    return table.sort_values(["model_size", "num_tasks", "seed"]).reset_index(drop=True)


def describe(table: pd.DataFrame, title: str) -> str:
    """The grid points whose seeds differ much, with every seed's accuracy in order."""
    lines = [
        f"{title}: accuracy on unseen tasks where seeds disagree on generalizing, or differ by "
        f"more than {SPREAD:g}"
    ]
    points = table.groupby(["model_size", "num_tasks"])["accuracy"]
    spread = points.transform("max") - points.transform("min")
    told = table[table["split"] | (spread > SPREAD)]
    for (size, tasks), rows in told.groupby(["model_size", "num_tasks"]):
        number = int((rows["phase"] == GENERALIZING).sum())
        values = "  ".join(f"{v:.3f}" for v in np.sort(rows["accuracy"]))
        where = f"model size {labels.power_of_two(size)}, {labels.power_of_two(tasks)} tasks:"
        lines.append(f"  {where:32}{number} of {len(rows)} generalize   {values}")
    if len(lines) == 1:
        lines.append("  none")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy on unseen tasks of one model size: a dot a seed, coloured by its phase."""
    import seaborn as sns

    from metaphase.analysis.figures import style, tiles

    style.draw_chance(ax, rows["chance"].mean())
    edges = tiles.tile_edges(rows["num_tasks"])
    for tasks in rows.loc[rows["split"], "num_tasks"].unique():
        ax.axvspan(*edges[float(tasks)], color=_DISAGREE_COLOR, lw=0, zorder=0)
    unit = min(right - left for left, right in edges.values())
    place = np.log2(rows["num_tasks"].astype(float))
    shift = rows["seed"].map(style.seed_shifts(rows["seed"], 0.28 * unit))
    sns.scatterplot(
        rows.assign(place=place + shift), x="place", y="accuracy", hue="phase",
        hue_order=PHASES, palette=style.COLORS, legend=False, ax=ax, **_DOT,
    )  # fmt: skip
    median = rows.groupby("num_tasks")["accuracy"].median()
    x = np.log2(median.index.to_numpy(dtype=float))
    ax.hlines(median, x - 0.4 * unit, x + 0.4 * unit, color="black", lw=0.8)
    style.log2_ticks(ax, "x", rows["num_tasks"], most=9)
    ax.set_ylim(0, 1)
    ax.set_xlabel(style.NUM_TASKS_LABEL)
    return ax


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A panel a model size, at most `MOST_PANELS`."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from metaphase.analysis.figures import style

    sizes = style.spread(table["model_size"], MOST_PANELS)
    width = {1: 3.6, 2: 2.6}.get(len(sizes), 1.9)  # inches a panel
    whole = Figure(figsize=(1.6 + width * len(sizes), 2.6), layout="constrained")
    axes = whole.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for ax, size in zip(axes, sizes, strict=True):
        draw(table[table["model_size"] == size], ax)
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {style.power_of_two(size)}")
        ax.label_outer()
    axes[0].set_ylabel("accuracy, unseen tasks")
    dot = {"mec": _DOT["edgecolor"], "mew": _DOT["linewidth"]}
    handles: list[Any] = [
        Line2D([], [], color=style.COLORS[phase], label=phase, ls="", marker="o", ms=3, **dot)
        for phase in reversed(PHASES)
    ]
    handles.append(Line2D([], [], color="black", lw=0.8, label="median"))
    handles += axes[0].get_legend_handles_labels()[0]  # chance
    handles.append(Patch(color=_DISAGREE_COLOR, label="seeds disagree"))
    whole.legend(handles=handles, loc="outside right center")
    style.title_above(whole, title)
    return whole
