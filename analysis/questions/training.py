"""Phases over training: when does a cell come into a phase, and does it leave it again?

Asked where finished cells were evaluated at several steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases, training_phases
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Phases over training: a panel a model size, a row a number of tasks, its seeds one above the "
    "other at every evaluation."
)
FEWEST = 3  # steps at which a cell was evaluated


def find(
    cells: pd.DataFrame,
    history: pd.DataFrame,
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    rule: Rule | None = None,
) -> Iterator[Answer]:
    """An answer for each condition whose cells were evaluated at several steps; without a figure
    where there are several conditions, and this one is a single point of the grid.

    Args:
        cells: from `analysis.load.load_cells`, all conditions.
        history: from `analysis.load.load_history`.
        delta, confidence, rule: see `analysis.statistics.phases.classify`.
    """
    conditions = phases.split_conditions(cells)
    for condition, group in conditions:
        own = history[history["cell_id"].isin(group["cell_id"]) & (history["step"] > 0)]
        if own["step"].nunique() < FEWEST:
            continue
        every = training_phases.evaluations(group, own)
        classified = phases.classify(every, delta, confidence, rule=rule)
        table = training_phases.onsets(classified)
        title = labels.title(group, condition)
        lost = training_phases.transient_text(table)
        text = "\n".join(
            [f"{title}: cells that generalized and lost it", *map("  {}".format, lost)]
        )
        is_map = len(conditions) == 1 or not phases.is_one_point(group)
        yield Answer(
            f"training{labels.file_suffix(condition)}", text if lost else "", table,
            functools.partial(figure, classified, title) if is_map else None, CAPTION,
        )  # fmt: skip


def band_table(classified: pd.DataFrame) -> pd.DataFrame:
    """What the figure shows: a row a cell and evaluation.

    Args:
        classified: classified evaluations of one condition (`statistics.training_phases`).

    Returns:
        model_size, num_tasks, seed, step, `outcome`, `strength`, `decided` (`figures.outcomes`),
        and the band's `left`, `right` in log10 steps, `bottom`, `top` in log2 numbers of tasks;
        seeds lie one above the other, ordered by phase.
    """
    from metaphase.analysis.figures import outcomes, tiles

    rows = classified[classified["step"] > 0]
    keys = ["model_size", "num_tasks", "step"]
    table = pd.concat([rows[[*keys, "seed"]], outcomes.of_cells(rows)], axis="columns")
    across = training_phases.step_edges(rows["step"].to_numpy())
    upward = tiles.tile_edges(rows["num_tasks"])
    sides = {
        name: table[axis].astype(float).map({value: ends[end] for value, ends in edges.items()})
        for axis, edges, names in (
            ("step", across, ("left", "right")),
            ("num_tasks", upward, ("bottom", "top")),
        )
        for end, name in enumerate(names)
    }
    return outcomes.stack(table.assign(**sides), keys)


def figure(classified: pd.DataFrame, title: str = "") -> Figure:
    """A panel a model size: the phase over training step (log) and number of tasks."""
    from metaphase.analysis.figures import axes, outcomes, panels, style

    table = band_table(classified)
    sizes = sorted(table["model_size"].unique())
    handles, names = outcomes.legend_handles(table, letters=False)
    rows = table["num_tasks"].nunique()
    whole = panels.Panels(
        panels.facets(len(sizes), 1.35), min(1.6, max(0.6, 0.22 * rows)), title, (), names,
        left=0.62, width=4.2 if len(sizes) == 1 else None,
    )  # fmt: skip
    for ax, size in zip(whole.axes, sizes, strict=True):
        axes.exponent_ticks(ax, "x")
        ax.set_xlim(table["left"].min(), table["right"].max())
        ax.set_ylim(table["bottom"].min(), table["top"].max())
        axes.tasks_axis(ax, "y", table["num_tasks"])
        if rows > 1:
            ax.set_ylabel(str(ax.get_ylabel()).replace("number of tasks", "number of\ntasks"))
        ax.set_xlabel("training step")
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {labels.short_number(size)}")
        outcomes.draw(ax, table[table["model_size"] == size])
    whole.label_outer()
    whole.legend(handles)
    return whole.figure
