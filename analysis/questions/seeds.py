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
from metaphase.core.phase_rules import NO_PHASE
from metaphase.core.phases import GENERALIZING, PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = "Accuracy on unseen tasks at the last tenth of the positions: a dot a seed."
FEWEST = 3  # seeds, and numbers of tasks
SPREAD = 0.15  # between the best and the worst seed: told, though all may be in one phase
_DISAGREE_COLOR = "#f0e6f5"


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
    """Every finished seed of a condition: model_size, num_tasks, seed, phase (`NO_PHASE` where the
    rule has none), accuracy, chance.

    `accuracy` is that on unseen tasks; `split` says whether seeds of its grid point disagree on
    generalizing.
    """
    phases.require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    table = done[["model_size", "num_tasks", "seed", "phase"]].assign(
        chance=done["unseen_level"], accuracy=done["unseen_last"].astype(float)
    )
    table["phase"] = table["phase"].astype(object).fillna(NO_PHASE)
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
    from metaphase.analysis.figures import axes, style, tiles

    style.draw_chance(ax, rows["chance"].mean())
    edges = tiles.tile_edges(rows["num_tasks"])
    split = np.array(
        [edges[float(tasks)] for tasks in rows.loc[rows["split"], "num_tasks"].unique()]
    ).reshape(-1, 2)
    tiles.add_spans(ax, *split.T, facecolors=_DISAGREE_COLOR)
    unit = min(right - left for left, right in edges.values())
    place = np.log2(rows["num_tasks"].astype(float))
    shift = rows["seed"].map(style.seed_shifts(rows["seed"], 0.28 * unit))
    colors = [_color(phase) for phase in rows["phase"]]
    ax.scatter(place + shift, rows["accuracy"], c=colors, **_dot())
    median = rows.groupby("num_tasks")["accuracy"].median()
    x = np.log2(median.index.to_numpy(dtype=float))
    ax.hlines(median, x - 0.4 * unit, x + 0.4 * unit, color="black", lw=0.8 * style.scale())
    axes.tasks_axis(ax, "x", rows["num_tasks"])
    ax.set_ylim(0, 1)
    return ax


def _color(phase: str) -> str:
    from metaphase.analysis.figures import style

    return "white" if phase == NO_PHASE else style.COLORS[phase]


def _dot() -> dict[str, Any]:
    from metaphase.analysis.figures import style

    unit = style.scale()
    return {"s": 8 * unit**2, "edgecolors": "#444444", "linewidths": 0.35 * unit}


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A panel a model size, all of them."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from metaphase.analysis.figures import panels, style

    sizes = sorted(table["model_size"].unique())
    known = (*reversed(PHASES), NO_PHASE)
    phases_there = [phase for phase in known if (table["phase"] == phase).any()]
    names = [*phases_there, "median", "chance"]
    split = bool(table["split"].any())
    whole = panels.Panels(
        panels.facets(len(sizes), 1.35), 1.9 if len(sizes) == 1 else 1.05, title,
        ["dots: seeds, coloured by phase"], [*names, *(["seeds disagree"] if split else [])],
        left=0.62, width=4.2 if len(sizes) == 1 else None,
    )  # fmt: skip
    for ax, size in zip(whole.axes, sizes, strict=True):
        draw(table[table["model_size"] == size], ax)
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {labels.short_number(size)}")
        ax.set_ylabel("accuracy,\nunseen tasks")
    whole.label_outer()
    unit = style.scale()
    handles: list[Any] = [
        Line2D([], [], color=_color(phase), ls="", marker="o", ms=3.4 * unit, mec="#444444",
               mew=0.35 * unit)
        for phase in phases_there
    ]  # fmt: skip
    handles.append(Line2D([], [], color="black", lw=0.8 * unit))
    handles.append(Line2D([], [], color="#555555", lw=0.8 * unit, ls=":"))
    whole.legend([*handles, *([Patch(color=_DISAGREE_COLOR)] if split else [])])
    return whole.figure
