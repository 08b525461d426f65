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
    """Heat maps as in `analysis.figures.accuracy`: a column an architecture, rows seen, unseen;
    where there is no room for all side by side, rows below."""
    from metaphase.analysis.figures import accuracy, axes, panels, style, tiles

    groups = dict(list(classified.groupby("architecture")))
    shape = panels.facets(len(groups), 1.3)
    names = list(groups)
    blocks = [names[at : at + shape[0]] for at in range(0, len(names), shape[0])]
    edges = tiles.tile_edges(classified["model_size"]).values()
    bottom, top = min(low for low, _ in edges), max(high for _, high in edges)
    splits = (schema.SEEN, schema.UNSEEN)
    whole = panels.Panels(
        [len(block) for block in blocks for _ in splits], 1.25, title,
        ["line on the scale: chance on new tasks"], right=0.95, left=0.75, between=(0.14, 0.35),
    )  # fmt: skip
    places = [(block, split) for block in blocks for split in splits]
    for (block, split), row in zip(places, whole.rows, strict=True):
        for name, ax in zip(block, row, strict=True):
            group = groups[name]
            accuracy.draw(accuracy.tile_table(group, split), ax)
            axes.sizes_axis(ax, "y", classified["model_size"])
            ax.set_ylim(bottom, top)  # the same for all, so that sizes stand side by side
            ax.set_ylabel(f"{split} tasks\n{style.MODEL_SIZE_LABEL}")
            ax.set_title(style.architecture_label(str(name)) if split == schema.SEEN else "")
            if ax is not row[0]:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
            if split == schema.SEEN:
                ax.set_xlabel("")
    accuracy.add_scale(whole, [style.level(classified, schema.UNSEEN)])
    return whole.figure
