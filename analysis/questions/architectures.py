"""Architectures side by side: where does each reach which accuracy over the grid?

Asked where several architectures were trained over grids, all other settings equal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Accuracy at the last tenth of the positions over each architecture's grid."


def find(classified: pd.DataFrame) -> Iterator[Answer]:
    """An answer for each set of settings that several architectures share."""
    by_rest: dict[tuple[tuple[str, object], ...], list[pd.DataFrame]] = {}
    for condition, group in phases.split_conditions(classified):
        rest = tuple((k, v) for k, v in condition.items() if k != "architecture")
        if (group["status"] == schema.DONE).any() and group["model_size"].nunique() > 1:
            by_rest.setdefault(rest, []).append(group)
    for rest, groups in by_rest.items():
        if len(groups) > 1:
            cells, condition = pd.concat(groups), dict(rest)
            yield Answer(
                f"architectures{labels.file_suffix(condition)}", "", accuracy_table(cells),
                functools.partial(figure, cells, labels.title(classified, condition)), CAPTION,
            )  # fmt: skip


def accuracy_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Accuracy at the last positions, means over the seeds that finished.

    Args:
        classified: cells of conditions that differ in the architecture alone.

    Returns:
        A row a grid point: architecture, model_size, num_tasks, `seen`, `unseen`, `phase` (of the
        majority), `seeds` that finished.
    """
    phases.require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE].groupby(phases.GRID_POINT)
    table = pd.DataFrame(
        {split: done[f"{split}_{schema.LAST}"].mean() for split in (schema.SEEN, schema.UNSEEN)}
        | {"seeds": done.size()}
    )
    points = phases.summarize_grid(classified).set_index(phases.GRID_POINT)
    return table.join(points["phase"].astype(str)).reset_index()


def figure(classified: pd.DataFrame, title: str = "") -> Figure:
    """Heat maps as in `analysis.figures.accuracy`: a column an architecture, rows seen, unseen."""
    from matplotlib.figure import Figure

    from metaphase.analysis.figures import accuracy, style, tiles

    groups = dict(list(classified.groupby("architecture")))
    columns = [group["num_tasks"].nunique() for group in groups.values()]
    size = (2.0 + sum(0.9 + 0.16 * n for n in columns), 3.8)
    whole = Figure(figsize=size, layout="constrained")
    ratios = [5 + n for n in columns]
    edges = tiles.tile_edges(classified["model_size"]).values()
    bottom, top = min(low for low, _ in edges), max(high for _, high in edges)
    axes = whole.subplots(2, len(groups), squeeze=False, width_ratios=ratios, sharex="col")
    for row, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        for ax, (name, group) in zip(row, groups.items(), strict=True):
            accuracy.draw(accuracy.tile_table(group, split), ax)
            style.log2_ticks(ax, "x", group["num_tasks"], most=4)
            style.log2_ticks(ax, "y", classified["model_size"])
            ax.set_ylim(bottom, top)  # the same for all, so that sizes stand side by side
            ax.set_ylabel("")
            if split == schema.SEEN:
                ax.set_title(style.architecture_label(str(name)))
                ax.set_xlabel("")
        row[0].set_ylabel(f"{split} tasks\n{style.MODEL_SIZE_LABEL}")
    for ax in axes[1]:
        ax.set_xlabel("")
    whole.supxlabel(style.NUM_TASKS_LABEL, size=8)
    accuracy.add_scale(whole, axes, classified["chance"].mean())
    style.title_above(whole, title)
    return whole
