"""The phase map: every cell's phase over model size and number of tasks, and where phases begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaphase.analysis import labels
from metaphase.analysis.figures import outcomes, panels, style, tiles, transition_marks
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core.phases import PHASES

MOST_LETTERS = 100  # tiles of a map on which phases have letters


def tile_table(classified: pd.DataFrame, expected: pd.DataFrame | None = None) -> pd.DataFrame:
    """Bands of the phase map: a row for every grid point and seed, finished or not; of a search,
    for every cell that was trained and every grid point where none was.

    Args:
        classified: the cells of one condition.
        expected: of a search, from `analysis.statistics.untrained.expected`.

    Returns:
        model_size, num_tasks, seed, `outcome`, `strength`, `decided` (`figures.outcomes`), the
        band's `left`, `right`, `bottom`, `top` in log2 units (a grid point's seeds lie one above
        the other, ordered by phase), and `unanimous`: all seeds have the same outcome. With
        `expected`, its `phase` and `share` too.
    """
    require_one_condition(classified)
    found = pd.concat(
        [classified[[*tiles.POINT, "seed"]], outcomes.of_cells(classified)], axis="columns"
    )
    if expected is None:
        seeds = pd.DataFrame({"seed": np.sort(classified["seed"].unique())})
        table = tiles.rectangle(classified).merge(seeds, how="cross")
        table = table.merge(found, how="left", validate="one_to_one")
    else:
        table = tiles.rectangle(pd.concat([found[tiles.POINT], expected[tiles.POINT]]))
        table = table.merge(found, how="left").merge(expected, how="left")
        table["outcome"] = table["outcome"].mask(table["share"].notna(), outcomes.UNTRAINED_POINT)
    table = table.fillna({"outcome": outcomes.MISSING}).assign(
        decided=table["decided"].fillna(True).astype(bool)
    )
    same = table.groupby(tiles.POINT)["outcome"].transform("nunique") == 1
    return outcomes.stack(table.assign(unanimous=same), tiles.POINT)


def draw(
    table: pd.DataFrame,
    ax: Axes,
    marks: pd.DataFrame | None = None,
    laws: pd.DataFrame | None = None,
) -> bool:
    """Bands coloured by phase, and where phases begin. The axes must have their final place.

    Args:
        table: from `tile_table`.
        ax: where to draw.
        marks: of the same condition, from `figures.transition_marks.table`.
        laws: likewise, from `figures.transition_marks.law_table`.

    Returns:
        Whether tiles are lettered: there are few of them, and letters fit.
    """
    tiles.frame(ax, table)
    outcomes.draw(ax, table)
    extent = {"left": "min", "right": "max", "bottom": "min", "top": "max"}
    points = table.groupby(tiles.POINT).agg(extent)
    across, upward = tiles.points_a_unit(ax)
    narrowest = min(
        ((points["right"] - points["left"]) * across).min(),
        ((points["top"] - points["bottom"]) * upward).min(),
    )
    gap = min(1.0 * style.scale(), 0.12 * narrowest)
    tiles.add(ax, points, facecolors="none", edgecolors="white", linewidths=gap, zorder=1.8)
    lettered = len(points) <= MOST_LETTERS and _draw_letters(ax, table)
    if laws is not None and len(laws):
        transition_marks.draw_laws(ax, table, laws)
    if marks is not None and len(marks):
        transition_marks.draw(ax, table, marks)
    return lettered


def _draw_letters(ax: Axes, table: pd.DataFrame) -> bool:
    """A letter in the corner of each tile whose seeds agree, where it has room; returns whether
    there are any."""
    across, upward = tiles.points_a_unit(ax)
    size = style.small()
    groups = table.groupby(tiles.POINT)
    shown = table.assign(
        bottom=groups["bottom"].transform("min"), top=groups["top"].transform("max")
    )
    shown = shown[shown["unanimous"] & shown["outcome"].isin(PHASES)]
    shown = shown.drop_duplicates(tiles.POINT)
    height = (shown["top"] - shown["bottom"]) * upward
    width = (shown["right"] - shown["left"]) * across
    shown = shown[(height >= 2.2 * size) & (width >= 1.6 * size)]
    for row in shown.to_dict("records"):
        ax.annotate(
            labels.LETTERS[row["outcome"]], (row["left"], row["top"]), size=size,
            xytext=(0.35 * size, -0.25 * size), textcoords="offset points", va="top", ha="left",
            color=style.INK[row["outcome"]], weight="bold", annotation_clip=False, zorder=3,
        )  # fmt: skip
    return len(shown) > 0


def figure(
    classified: pd.DataFrame,
    transitions: pd.DataFrame | None = None,
    title: str = "",
    joint: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    expected: pd.DataFrame | None = None,
) -> Figure:
    """The phase map with its transitions; the legend has what is drawn.

    Args:
        classified: the cells of one condition.
        transitions: from `analysis.statistics.transitions.estimate_transitions`.
        title: above the map.
        joint: from `analysis.statistics.boundary.boundaries`; clear power laws are drawn.
        expected: of a search, from `analysis.statistics.untrained.expected`.
    """
    table = tile_table(classified, expected)
    marks = None if transitions is None else transition_marks.table(transitions)
    laws = None if joint is None else transition_marks.law_table(*joint, transitions)
    columns, rows = table["num_tasks"].nunique(), table["model_size"].nunique()
    names = _legend_entries(table, marks, laws, True)[1]
    beside = style.room() > 6.5  # the legend's place: right of the map, else below
    widest = style.room() - 0.7 - (1.9 if beside else 0.0)
    width = float(np.clip(0.8 * columns, min(2.2, widest), widest))
    spare = 0.0 if beside else panels.LEGEND_LINE * -(-len(names) // panels.legend_columns(names))
    tallest = max(1.6, style.tallest() - 0.75 - spare)
    height = float(np.clip(0.4 * rows, 0.7, min(0.8 * width + 0.4, tallest)))
    if beside:
        height = max(height, panels.LEGEND_LINE * len(names) - 0.4)
    whole = panels.Panels(
        [1], height, title, names=() if beside else names, width=width, heads=False
    )
    [ax] = whole.axes
    lettered = draw(table, ax, marks, laws)
    handles, names = _legend_entries(table, marks, laws, lettered)
    if beside:
        ax.legend(handles, names, loc="upper left", bbox_to_anchor=(1 + 0.1 / width, 1.0),
                  **panels.LEGEND)  # fmt: skip
    else:
        whole.legend(handles, names)
    return whole.figure


def _legend_entries(
    table: pd.DataFrame, marks: pd.DataFrame | None, laws: pd.DataFrame | None, letters: bool
) -> tuple[list[Any], list[str]]:
    handles, names = outcomes.legend_handles(table, letters)
    for drawn, of in (
        (marks, transition_marks.legend_handles),
        (laws, transition_marks.law_handles),
    ):
        if drawn is not None:
            more, more_names = of(drawn)
            handles, names = [*handles, *more], [*names, *more_names]
    return handles, names
