"""The phase map: every cell's phase over model size and number of tasks, and where phases begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from metaphase.analysis import labels
from metaphase.analysis.figures import style, tiles
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema
from metaphase.core.phases import GENERALIZING, IDENTIFYING, PHASES, UNTRAINED

_BOUNDARY = {IDENTIFYING: (0, (2.5, 1.2)), GENERALIZING: "-"}  # dashes
_SMALLEST = 3.5  # points, of letters that can be read


def tile_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Tiles of the phase map: a row for every grid point and seed, finished or not.

    Returns:
        model_size, num_tasks, seed, `phase` (null if there is no result), `status` (same), the
        tile's `left`, `right`, `bottom`, `top` in log2 units (a grid point's seeds stand side by
        side), and `unanimous`: all seeds of the grid point finished in the same phase.
    """
    require_one_condition(classified)
    seeds = np.sort(classified["seed"].unique())
    found = classified[[*tiles.POINT, "seed", "phase", "status"]]
    table = tiles.rectangle(classified).merge(pd.DataFrame({"seed": seeds}), how="cross")
    table = table.merge(found, how="left", validate="one_to_one")
    strip = np.searchsorted(seeds, table["seed"])
    left, width = table["left"], table["right"] - table["left"]
    table = table.assign(
        left=left + width * strip / len(seeds), right=left + width * (strip + 1) / len(seeds)
    )
    done = (table["status"] == schema.DONE).groupby([table[key] for key in tiles.POINT])
    phases = table.groupby(tiles.POINT)["phase"].transform("nunique")
    table["unanimous"] = (phases == 1) & done.transform("all")
    return table


def draw(table: pd.DataFrame, ax: Axes, transitions: pd.DataFrame | None = None) -> Axes:
    """Tiles coloured and lettered by phase, one strip a seed; where phases begin as steps.

    Args:
        table: from `tile_table`.
        ax: where to draw.
        transitions: of the same condition, from
            `analysis.statistics.transitions.estimate_transitions`.
    """
    tiles.frame(ax, table)
    known = table[table["status"].notna()]
    fill = list(known["phase"].astype(object).map(style.COLORS).fillna(style.COLORS[UNTRAINED]))
    tiles.add(ax, known, facecolors=fill, edgecolors=fill, linewidths=0.2, antialiaseds=False)
    extent = {"left": "min", "right": "max", "bottom": "min", "top": "max", "status": "count"}
    points = table.groupby(tiles.POINT).agg(extent)
    tiles.add(ax, points, facecolors="none", edgecolors="white", linewidths=1.0)
    dotted: dict[str, Any] = {"edgecolors": "#b0b0b0", "linewidths": 0.5, "linestyles": ":"}
    tiles.add(ax, points[points["status"] == 0], inset=0.06, facecolors="none", **dotted)
    _draw_letters(ax, known)
    if transitions is not None:
        _draw_boundaries(ax, table, transitions)
    _draw_legend(ax, table, transitions is not None)
    return ax


def _draw_letters(ax: Axes, known: pd.DataFrame) -> None:
    """One letter a tile where its seeds agree, else one a strip, as large as fits."""
    unit = ax.transData.transform([(0, 0), (1, 1)])  # pixels
    points_per_x, points_per_y = (unit[1] - unit[0]) * 72 / ax.figure.dpi

    grid_points, whole = known.groupby(tiles.POINT), known["unanimous"]
    letters = known.assign(
        left=known["left"].mask(whole, grid_points["left"].transform("min")),
        right=known["right"].mask(whole, grid_points["right"].transform("max")),
    )[~(whole & known.duplicated(tiles.POINT))]
    for row in letters.to_dict("records"):
        width, height = row["right"] - row["left"], row["top"] - row["bottom"]
        size = min(9.0, width * points_per_x * 0.85, height * points_per_y)
        if size < _SMALLEST:
            continue  # the colours alone must do
        done = row["status"] == schema.DONE
        ax.text(
            (row["left"] + row["right"]) / 2,
            (row["bottom"] + row["top"]) / 2,
            labels.LETTERS[row["phase"]] if done else style.UNFINISHED_LETTER,
            color=style.INK[row["phase"]] if done else style.RED,
            size=size,
            ha="center",
            va="center_baseline",
            family="DejaVu Sans Mono",
            weight="bold",
            clip_on=True,
        )


def _draw_boundaries(ax: Axes, table: pd.DataFrame, transitions: pd.DataFrame) -> None:
    """A step at each model size's estimate; a whisker over its interval, cut at the map's edge."""
    edge_left, edge_right = table["left"].min(), table["right"].max()
    halo = [withStroke(linewidth=3.0, foreground="white")]
    for phase, dashes in _BOUNDARY.items():
        steps = transitions[transitions["begins"] == phase].set_index("model_size")
        x, y, rows = tiles.boundary(table, steps["log2_num_tasks"])
        ax.plot(x, y, color="black", linestyle=dashes, lw=1.4, path_effects=halo, zorder=4)
        steps = steps.reindex(rows.index)
        inside = steps["log2_num_tasks"].notna()
        shift = 0.34 if phase == GENERALIZING else -0.34  # above or below the tiles' letters
        middle = rows.mean(axis=1) + shift * (rows["top"] - rows["bottom"])
        low, high = (steps[name].clip(edge_left, edge_right)[inside] for name in ("low", "high"))
        look: dict[str, Any] = {"color": "black", "lw": 0.9, "path_effects": halo, "zorder": 4}
        ax.hlines(middle[inside], low, high, **look)


def _draw_legend(ax: Axes, table: pd.DataFrame, boundaries: bool) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=style.COLORS[phase], label=f"{labels.LETTERS[phase]}  {phase}")
        for phase in reversed(PHASES)
    ]
    if (table["status"].notna() & (table["status"] != schema.DONE)).any():
        cross: dict[str, Any] = {"marker": "x", "ls": "", "color": style.RED, "ms": 4}
        handles.append(Line2D([], [], label="diverged or failed", **cross))
    if table["status"].isna().any():
        handles.append(Patch(facecolor="white", edgecolor="#c8c8c8", ls=":", label="no result yet"))
    if boundaries:
        for phase, dashes in _BOUNDARY.items():
            line = Line2D([], [], color="black", ls=dashes, lw=1.4, label=f"{phase} begins")
            handles.append(line)
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.8)


def figure(
    classified: pd.DataFrame, transitions: pd.DataFrame | None = None, title: str = ""
) -> Figure:
    """The phase map with its boundaries."""
    table = tile_table(classified)
    columns, rows = table["num_tasks"].nunique(), table["model_size"].nunique()
    width, height = np.clip(0.5 * columns, 2.6, 5.1), np.clip(0.45 * rows, 1.6, 4.0)  # inches
    left, below, legend = 0.55, 0.45, 1.5
    title = style.wrap(title, width + legend)
    above = 0.3 + 0.14 * title.count("\n")
    whole = Figure(figsize=(left + width + legend, below + height + above))
    across, upward = whole.get_size_inches()
    ax = whole.add_axes((left / across, below / upward, width / across, height / upward))
    draw(table, ax, transitions)
    ax.set_title(title, loc="left")
    return whole
