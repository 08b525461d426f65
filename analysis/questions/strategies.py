"""Do three numbers say when models go over from one of the best algorithms to the other?

The strategy model of `analysis.statistics.strategies`, fitted to each condition and model size
whose cells were compared with M and G over several numbers of tasks and steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases, strategies
from metaphase.analysis.statistics import relative_distance as relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Relative distance on new tasks over training step and number of tasks: measured, fitted by "
    "the strategy model (three numbers a model size), and predicted by fits that saw neither that "
    "number of tasks nor these steps."
)
_SIDES = {"relative_distance": "measured", "predicted": "fitted", "held_out": "held out"}


def find(cells: pd.DataFrame, history: pd.DataFrame) -> Iterator[Answer]:
    """The answers for each condition that has enough: the fits, and the points with predictions.

    Args:
        cells: from `analysis.statistics.phases.classify`, all conditions.
        history: from `analysis.load.load_history`.
    """
    needed = {"relative_distance", "loss_memorizing", "loss_generalizing"}
    if not relative.has_it(cells) or not needed <= set(history):
        return
    for condition, group in phases.split_conditions(cells):
        fits, points = strategies.summary(strategies.points_table(group, history))
        if fits.empty:
            continue
        end, title = labels.file_suffix(condition), labels.title(group, condition)
        yield Answer(f"strategies{end}", describe(fits, title), fits)
        draw = functools.partial(figure, points, title)
        yield Answer(f"strategies_map{end}", "", points, draw, CAPTION)


def describe(fits: pd.DataFrame, title: str) -> str:
    """A line a model size."""
    lines = [f"{title}: strategy model (Wurgaft et al. 2025) of the relative distance"]
    for row in fits.to_dict("records"):
        out = row["held_out_correlation"]
        told = "too few to hold any out" if out != out else f"held out {out:.2f}"
        bounds = row["at_bounds"].replace(",", " and ")
        told += f"; {bounds} at the end of what is allowed" if bounds else ""
        lines.append(
            f"  model size {labels.power_of_two(row['model_size'])}: alpha {row['alpha']:.2f}, "
            f"beta {row['beta']:.2f}, gamma {row['gamma']:.3g}; correlation "
            f"{row['correlation']:.2f}, {told} ({row['points']} points)"
        )
    return "\n".join(lines)


def _short(label: str) -> str:
    return label.replace("number of tasks", "tasks")


def figure(points: pd.DataFrame, title: str = "") -> Figure:
    """A row of maps a model size: measured, fitted, held out."""
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from metaphase.analysis.figures import panels, relative_maps, style

    sizes, keys = sorted(points[relative.SIZE].unique()), [relative.TASKS, relative.STEP]
    height = float(np.clip(0.22 * points[relative.TASKS].nunique(), 0.8, 1.3))
    whole = panels.Panels([3] * len(sizes), height, title, left=0.75, right=0.85)
    for row, size in zip(whole.rows, sizes, strict=True):
        own = points[points[relative.SIZE] == size]
        means = own.groupby(keys)[list(_SIDES)].mean().assign(seeds=1).reset_index()
        means = relative_maps.whole_grid(means, keys)
        for ax, (column, side) in zip(row, _SIDES.items(), strict=True):
            table = means.drop(
                columns=[c for c in _SIDES if c not in (column, "relative_distance")]
            )
            table = table.assign(relative_distance=means[column], seeds=means["seeds"])
            table.loc[means[column].isna(), "seeds"] = np.nan
            table = relative_maps.tile_table(table, relative.STEP, relative.TASKS)
            relative_maps.draw(table, ax, relative.STEP, relative.TASKS)
            ax.set_title(side if size == sizes[0] else "")
            ax.set_xlabel("training step" if style.room() > 5 else "step")
            ax.set_ylabel(
                f"model size {labels.short_number(size)}\n" + _short(str(ax.get_ylabel()))
            )
    whole.label_outer()
    scale = ScalarMappable(Normalize(0, 1), relative_maps.MAP)
    bar = whole.colorbar(scale, "relative distance")
    bar.set_ticks([0, 0.5, 1], labels=["0: M", "0.5", "1: G"])
    return whole.figure
