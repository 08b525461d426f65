"""Maps of the relative distance between M and G over any two axes of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from metaphase.analysis import labels
from metaphase.analysis.figures import axes, panels, style, tiles, transition_marks
from metaphase.analysis.statistics import training_phases
from metaphase.analysis.statistics.relative_distance import POSITION, SIZE, STEP, TASKS
from metaphase.core.phases import GENERALIZING, MEMORIZING

# From M's colour to G's; its lightness falls all along, so that both survive in grey.
MAP = LinearSegmentedColormap.from_list(
    "M to G",
    [style.COLORS[MEMORIZING], "#e08a63", "#b05a7c", "#74408a", style.COLORS[GENERALIZING]],
)
_NOTHING = "#ececec"  # of tiles without a number
UNKNOWN, NOT_COMPUTED = "can't be told", "M isn't computed"  # why they have none
_NARROWEST = 1.35  # inches, of a panel
BOUNDARY = "phases change"


def edges(values: np.ndarray, axis: str) -> dict[float, tuple[float, float]]:
    """Where the tile of each value of an axis begins and ends, in the units that it is drawn in."""
    ordered = np.unique(np.asarray(values, dtype=float))
    if axis == STEP:
        return {float(k): v for k, v in training_phases.step_edges(ordered).items()}
    if axis == POSITION:
        return {float(v): (float(v) - 1.5, float(v) - 0.5) for v in ordered}  # examples seen
    if (ordered > 0).all():
        return tiles.tile_edges(ordered)
    return {float(v): (i - 0.5, i + 0.5) for i, v in enumerate(ordered)}


def tile_table(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """A table of `analysis.statistics.relative_distance` with each row's tile: left, right, bottom,
    top."""
    across, upward = edges(table[x].to_numpy(), x), edges(table[y].to_numpy(), y)
    left, right = zip(*(across[float(v)] for v in table[x]), strict=True)
    bottom, top = zip(*(upward[float(v)] for v in table[y]), strict=True)
    return table.assign(left=left, right=right, bottom=bottom, top=top)


def boundary_lines(table: pd.DataFrame) -> np.ndarray:
    """Sides that tiles of different phases share; ends of shape (lines, 2 ends, 2).

    Args:
        table: from `tile_table`, with `phase`; tiles without one have no such sides.
    """
    rows = table[table["phase"].notna()]
    found = []
    for one, other, low, high, upright in (
        ("right", "left", "bottom", "top", True), ("top", "bottom", "left", "right", False),
    ):  # fmt: skip
        at = rows.assign(_side=rows[one].round(9))
        to = rows.assign(_side=rows[other].round(9))
        pairs = at.merge(to, on=["_side", low, high], suffixes=("", "_next"))
        pairs = pairs[pairs["phase"] != pairs["phase_next"]]
        for side, a, b in pairs[["_side", low, high]].to_numpy(dtype=float):
            found.append([(side, a), (side, b)] if upright else [(a, side), (b, side)])
    return np.array(found, dtype=float).reshape(-1, 2, 2)


def draw(table: pd.DataFrame, ax: Axes, x: str, y: str, names: tuple[str, str] = ("", "")) -> None:
    """One map. The axes must have their final place.

    Args:
        table: from `tile_table`; its extent is that of the axes.
        ax: where to draw.
        x, y: the axes' columns.
        names: of axes that are settings.
    """
    ax.set_xlim(table["left"].min(), table["right"].max())
    ax.set_ylim(table["bottom"].min(), table["top"].max())
    for which, column, name in (("x", x, names[0]), ("y", y, names[1])):
        _label(ax, which, column, table[column].to_numpy(), name)
    known = table[table["relative_distance"].notna()]
    colors = MAP(known["relative_distance"].to_numpy(dtype=float))
    look = {"linewidths": 0.3, "antialiaseds": False}
    tiles.add(ax, known, facecolors=colors, edgecolors=colors, **look)
    why = reasons(table)
    tiles.add(ax, table[why.notna()], facecolors=_NOTHING, edgecolors=_NOTHING, **look)
    hatch = tiles.hatching(ax, table[why == UNKNOWN], 4.0 * style.scale())
    tiles.draw_lines(ax, hatch, color="#8a8a8a", lw=0.6 * style.scale(), gid=UNKNOWN)
    missing = table[table["seeds"].isna()]
    tiles.add(ax, missing, 0.05, facecolors="none", linestyles=":", edgecolors=style.GREY,
              linewidths=0.6 * style.scale())  # fmt: skip
    if "phase" in table:
        lines = boundary_lines(table)
        for color, width in (("white", 2.0), ("black", 0.9)):
            tiles.draw_lines(ax, lines, color=color, lw=width * style.scale(), zorder=3,
                             solid_capstyle="projecting")  # fmt: skip


def reasons(table: pd.DataFrame) -> pd.Series:
    """Why a tile has no number, None where it has one or nothing was trained: `NOT_COMPUTED` where
    no seed was compared with M, else `UNKNOWN`."""
    nothing = table["relative_distance"].isna() & table["seeds"].notna()
    too_many = table.get("not_computed", pd.Series(0, table.index)) == table["seeds"]
    found = pd.Series(None, table.index, dtype=object)
    return found.mask(nothing, UNKNOWN).mask(nothing & too_many, NOT_COMPUTED)


def _label(ax: Axes, which: str, column: str, values: np.ndarray, name: str) -> None:
    if column == TASKS:
        axes.tasks_axis(ax, which, values)
    elif column == SIZE:
        axes.sizes_axis(ax, which, values)
    elif column == STEP:
        axes.exponent_ticks(ax, which)
        ax.set(**{f"{which}label": "training step"})
    elif column == POSITION:
        (ax.xaxis if which == "x" else ax.yaxis).set_major_locator(MaxNLocator(4, integer=True))
        ax.set(**{f"{which}label": "examples seen"})
    else:
        ordered = np.unique(np.asarray(values, dtype=float))
        if (ordered > 0).all():
            axes.log2_ticks(ax, which, ordered)
        else:
            axes.named_ticks(ax, which, [labels.short_number(v) for v in ordered])
        ax.set(**{f"{which}label": name})


def whole_grid(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The table with a row for every combination of the keys' values; NaN where there is none."""
    index = pd.MultiIndex.from_product([np.sort(table[k].unique()) for k in keys], names=list(keys))
    return table.set_index(list(keys)).reindex(index).reset_index()


def figure(
    table: pd.DataFrame,
    x: str,
    y: str,
    title: str = "",
    marks: pd.DataFrame | None = None,
    names: tuple[str, str] = ("", ""),
) -> Figure:
    """A map for each model size, or one where model size is an axis.

    Args:
        table: of `analysis.statistics.relative_distance`.
        x, y: its columns that are the axes.
        title: above all.
        marks: where phases begin (`figures.transition_marks.table`), instead of the tiles' sides.
        names: of axes that are settings.
    """
    keys = list(dict.fromkeys([SIZE, y, x]))
    table = tile_table(whole_grid(table, keys), x, y)
    if marks is not None and "phase" in table:
        table = table.drop(columns="phase")
    sizes = [None] if SIZE in (x, y) else sorted(table[SIZE].unique())
    handles: list = []
    entries: list[str] = []
    why = set(reasons(table))
    for reason, hatch in ((UNKNOWN, "//////"), (NOT_COMPUTED, "")):
        if reason in why:
            entries.append(reason)
            handles.append(Patch(facecolor=_NOTHING, edgecolor="#8a8a8a", hatch=hatch, lw=0))
    if "phase" in table and len(boundary_lines(table)):
        entries.append(BOUNDARY)
        handles.append(Line2D([], [], color="black", lw=0.9 * style.scale()))
    if marks is not None and len(marks):
        more, more_names = transition_marks.legend_handles(marks)
        handles, entries = [*handles, *more], [*entries, *more_names]
    rows, columns = table[y].nunique(), table[x].nunique()
    one = len(sizes) == 1
    width = float(np.clip(0.7 * columns, 2.2, 4.2)) if one else None
    height = float(np.clip(0.3 * rows, 1.0, 1.7))
    whole = panels.Panels(
        panels.facets(len(sizes), _NARROWEST), height, title, (), entries, left=0.62, right=0.85,
        width=width, heads=not (one and sizes[0] is None),
    )  # fmt: skip
    for ax, size in zip(whole.axes, sizes, strict=True):
        own = table if size is None else table[table[SIZE] == size]
        draw(own, ax, x, y, names)
        if size is not None:
            ax.set_title(f"{style.MODEL_SIZE_LABEL} {labels.short_number(size)}")
        if marks is not None and len(marks):
            transition_marks.draw(ax, own, marks)
        if height < 1.3 and y == TASKS:
            ax.set_ylabel(str(ax.get_ylabel()).replace("number of tasks", "number of\ntasks"))
    whole.label_outer()
    bar = whole.colorbar(ScalarMappable(Normalize(0, 1), MAP), "relative distance")
    bar.set_ticks([0, 0.5, 1], labels=["0: M", "0.5", "1: G"])
    whole.legend(handles)
    return whole.figure
