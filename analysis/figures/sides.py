"""Two sets of accuracies over one grid, and their difference: a sweep beside another one, or beside
published values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metaphase.analysis.figures import accuracy, panels, style, tiles, transition_marks
from metaphase.core import schema

DIFFERENCE, LOW, HIGH = "difference", "low", "high"
SPLITS = (schema.SEEN, schema.UNSEEN)


def tile_table(points: pd.DataFrame, column: str) -> pd.DataFrame:
    """Tiles that show a column of `points` as their `accuracy`: a row a grid point of the points'
    rectangle, NaN where there is nothing in common; left, right, bottom, top in log2 units."""
    found = points[[*tiles.POINT, column]].rename(columns={column: "accuracy"})
    return tiles.rectangle(points).merge(found, how="left", validate="one_to_one")


def limit(points: pd.DataFrame) -> float:
    """The largest difference that colours show, from the data: up to a multiple of 0.05."""
    columns = [f"{split}_{DIFFERENCE}" for split in SPLITS]
    largest = np.nanmax(np.abs(points[columns].to_numpy(dtype=float)), initial=0.0)
    return max(0.05, float(np.ceil(largest * 20 - 1e-9)) / 20)


def draw_difference(points: pd.DataFrame, split: str, ax: Axes, most: float) -> None:
    """Differences of a split: dark where they are negative, light where positive. A dot marks those
    whose interval doesn't hold 0.

    Args:
        points: model_size, num_tasks, `<split>_difference`, and, if known, `<split>_low` and
            `<split>_high`.
        split: seen or unseen.
        ax: where to draw, at its final place.
        most: the difference at the ends of the colours.
    """
    table = tile_table(points, f"{split}_{DIFFERENCE}")
    accuracy.draw(table, ax, cmap=style.DIFFERENCE_MAP, norm=Normalize(-most, most))
    if f"{split}_{LOW}" not in points:
        return
    clear = points[(points[f"{split}_{LOW}"] > 0) | (points[f"{split}_{HIGH}"] < 0)]
    at = tile_table(points, f"{split}_{DIFFERENCE}").merge(clear[tiles.POINT])
    across, upward = tiles.points_a_unit(ax)
    if len(at):
        width, height = at["right"] - at["left"], at["top"] - at["bottom"]
        size = np.clip(0.25 * min((width * across).min(), (height * upward).min()), 1.0, 3.0)
        ax.scatter(at["right"] - 0.22 * width, at["top"] - 0.22 * height, s=size**2, color="white",
                   edgecolors="black", linewidths=0.5 * style.scale(), zorder=3)  # fmt: skip


def figure(
    points: pd.DataFrame,
    sides: Mapping[str, str],
    marks: Mapping[str, pd.DataFrame],
    chance: Iterable[float],
    title: str = "",
    what: str = "generalizing begins",
) -> Figure:
    """Maps of both sides and of the difference (second minus first), on seen and unseen tasks.

    Args:
        points: model_size, num_tasks, for each split `<split>_<side>`, `<split>_difference`, and,
            if known, the ends `<split>_low`, `<split>_high` of its interval.
        sides: what the two sides are called, by the end of their column's name.
        marks: by side, where generalizing begins (`figures.transition_marks.table`).
        chance: levels of the sides, marked on the scale.
        title: above all.
        what: the marks show.
    """
    first, second = sides
    shown = [first, second, DIFFERENCE]
    heads = {**sides, DIFFERENCE: f"{sides[second]} − {sides[first]}"}
    order = [(split, side) for split in SPLITS for side in shown]
    if style.room() < 5:
        order = [(split, side) for side in shown for split in SPLITS]
    columns = 3 if style.room() >= 5 else 2
    most = limit(points)
    levels = sorted({round(level, 2) for level in chance})
    notes = ["line on the scale: chance" if len(levels) == 1 else "lines on the scale: chance"]
    if f"{schema.SEEN}_{LOW}" in points and points[f"{schema.SEEN}_{LOW}"].notna().any():
        notes.append("dots: differences whose 95% interval, paired by seed, leaves out 0")
    width = (style.room() - 1.7) / columns
    names = [f"{what}, {name}" for side, name in sides.items() if len(marks[side])]
    whole = panels.Panels(
        panels.rows_of(6, columns),
        accuracy.map_height(tile_table(points, f"{schema.SEEN}_{first}"), width),
        title, notes, names, right=0.95, between=(0.14, 0.4), below=0.42 if columns == 3 else 0.56,
    )  # fmt: skip
    looks = {first: ("black", "white"), second: ("#c2185b", "white")}
    for (split, side), ax in zip(order, whole.axes, strict=True):
        ax.set_title(f"{heads[side]}, {split}")
        if side == DIFFERENCE:
            draw_difference(points, split, ax, most)
        else:
            accuracy.draw(tile_table(points, f"{split}_{side}"), ax)
        for of, (color, halo) in looks.items():
            if split == schema.UNSEEN and side in (of, DIFFERENCE) and len(marks[of]):
                table = tile_table(points, f"{split}_{first}")
                transition_marks.draw(ax, table, marks[of], color, halo)
    whole.label_outer()
    for ax in whole.rows[-1]:
        ax.set_xlabel(style.wrap(ax.get_xlabel(), whole.width))
    bar_rows = (whole.rows[0], whole.rows[1]) if columns == 3 else (whole.rows[0], whole.rows[2])
    accuracy.add_scale(whole, levels, bar_rows[0])
    scale = ScalarMappable(Normalize(-most, most), style.DIFFERENCE_MAP)
    whole.colorbar(scale, "difference", bar_rows[1])
    unit = style.scale()
    whole.legend(
        [
            Line2D([], [], color=looks[side][0], marker="o", ms=3.6 * unit, mfc="white",
                   mew=0.8 * unit, lw=0.8 * unit)
            for side in sides if len(marks[side])
        ]
    )  # fmt: skip
    return whole.figure
