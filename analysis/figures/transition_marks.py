"""Where phases begin and end, on a map: a symbol in the middle of a model size's row, a thin bar
over its interval, and a line through the symbols of neighbouring rows; and power laws over all
model sizes, thin lines between their intervals' dotted ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from metaphase.analysis.figures import style
from metaphase.analysis.figures.tiles import points_a_unit
from metaphase.core.phases import GENERALIZING, IDENTIFYING

_LOOKS: dict[str, dict[str, Any]] = {
    IDENTIFYING: {"marker": "s", "ls": (0, (2.5, 1.2))},
    GENERALIZING: {"marker": "o", "ls": "-"},
}
_BESIDE = {IDENTIFYING: 0.13, GENERALIZING: -0.13}  # of a row's height, where both are in it
END = "end"
_LAW_COLOR = "#c2185b"


def table(transitions: pd.DataFrame) -> pd.DataFrame:
    """The transitions that can be drawn: those with an estimate inside the grid, and clear.

    Args:
        transitions: from `analysis.statistics.transitions.estimate_transitions`.

    Returns:
        model_size, `phase`, `boundary` (begin or end), log2_num_tasks, low, high.
    """
    found = transitions[transitions["log2_num_tasks"].notna()].rename(columns={"begins": "phase"})
    if "clear" in found:
        found = found[found["clear"].astype(bool)]
    if "boundary" not in found:
        found = found.assign(boundary="begin")
    return found[["model_size", "phase", "boundary", "log2_num_tasks", "low", "high"]]


def draw(
    ax: Axes, tiles: pd.DataFrame, marks: pd.DataFrame, color: str = "black", halo: str = "white"
) -> None:
    """Draw the rows of `table` on a map.

    Args:
        ax: where to draw.
        tiles: of the whole map; intervals are cut at its edges.
        marks: from `table`; `low` and `high` NaN: no bar.
        color: of lines and symbols.
        halo: of what is around them.
    """
    rows = tiles.groupby("model_size").agg(bottom=("bottom", "min"), top=("top", "max"))
    heights = rows["top"] - rows["bottom"]
    middles = (rows["bottom"] + rows["top"]) / 2
    edge_left, edge_right = tiles["left"].min(), tiles["right"].max()
    unit, several = style.scale(), marks["phase"].nunique() > 1
    lowest = heights.min() * points_a_unit(ax)[1]
    for (phase, boundary), group in marks.groupby(["phase", "boundary"]):
        look = _LOOKS[str(phase)]
        beside = _BESIDE[str(phase)] * several
        place = group.set_index("model_size")["log2_num_tasks"].reindex(rows.index)
        y = (middles + beside * heights).to_numpy()
        joined = {"x": place.to_numpy(dtype=float), "y": y}
        ends = group.set_index("model_size")[["low", "high"]].reindex(rows.index)
        ends = ends.clip(edge_left, edge_right)
        there = ends.notna().all(axis=1).to_numpy()
        bars = np.stack([ends.to_numpy(dtype=float), np.stack([y, y], axis=1)], axis=2)[there]
        for width, shade, above in ((2.4, halo, 4.0), (0.8, color, 4.2)):
            ax.plot(joined["x"], joined["y"], color=shade, lw=width * unit * 0.9, zorder=above,
                    ls=look["ls"] if shade == color else "-", solid_capstyle="butt")  # fmt: skip
            ax.add_collection(
                LineCollection(list(bars), colors=shade, linewidths=width * unit, zorder=above)
            )
        symbol = _symbol(look, str(boundary), color, halo)
        symbol["ms"] = float(np.clip(0.7 * lowest, 1.5 * unit, symbol["ms"]))  # not above its row
        ax.plot(joined["x"], joined["y"], zorder=4.4, **symbol)


def legend_handles(marks: pd.DataFrame) -> tuple[list[Line2D], list[str]]:
    """Handles and names of the marks drawn."""
    handles, names = [], []
    for (phase, boundary), _ in marks.groupby(["phase", "boundary"], sort=True):
        look = _LOOKS[str(phase)]
        both = _symbol(look, str(boundary), "black", "white")
        both |= {"ls": look["ls"], "lw": 0.8 * style.scale()}
        handles.append(Line2D([], [], color="black", **both))
        names.append(f"{phase} {boundary}s (95%)")
    return handles, names


def _symbol(look: dict[str, Any], boundary: str, color: str, halo: str) -> dict[str, Any]:
    unit = style.scale()
    face = color if boundary == END else halo
    return {"ls": "", "marker": look["marker"], "ms": 3.6 * unit, "mfc": face, "mec": color,
            "mew": 0.8 * unit}  # fmt: skip


def law_table(
    by_size: pd.DataFrame, laws: pd.DataFrame, transitions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The clear power laws as they are drawn.

    Args:
        by_size, laws: from `analysis.statistics.boundary.boundaries`, of one condition.
        transitions: as for `table`; sizes whose own cells speak against the law are left out.

    Returns:
        A row for each phase and model size at which the law lies within the grid: `phase`,
        model_size, log2_num_tasks, low, high, `exponent`, `exponent_low`, `exponent_high`.
    """
    clear = laws[laws["clear"].astype(bool)].rename(
        columns={"low": "exponent_low", "high": "exponent_high"}
    )
    exponents = ["exponent", "exponent_low", "exponent_high"]
    names = ["log2_num_tasks", "low", "high"]
    found = by_size[["model_size", "begins", *(f"law_{name}" for name in names)]]
    found = found.merge(clear[["begins", *exponents]], on="begins")
    if transitions is not None:
        own = transitions[transitions["boundary"] != END][["model_size", "begins", "low", "high"]]
        found = found.merge(own, on=["model_size", "begins"])
        agrees = (found["low"] <= found["law_high"]) & (found["law_low"] <= found["high"])
        found = found[agrees].drop(columns=["low", "high"])
    found = found.rename(columns={"begins": "phase", **{f"law_{name}": name for name in names}})
    return found[found["log2_num_tasks"].notna()].sort_values(["phase", "model_size"])


def draw_laws(ax: Axes, tiles: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the rows of `law_table` on a map; intervals end at the map's edges."""
    edges, unit = (tiles["left"].min(), tiles["right"].max()), style.scale()
    for phase, rows in table.groupby("phase"):
        y = np.log2(rows["model_size"].to_numpy(dtype=float))
        x = rows["log2_num_tasks"].to_numpy(dtype=float)
        ends = rows[["low", "high"]].to_numpy(dtype=float)
        ends = np.where((ends > edges[0]) & (ends < edges[1]), ends, np.nan)
        ax.plot(x, y, color="white", lw=1.8 * unit, zorder=3.4)
        ax.plot(x, y, **_law_look(str(phase)), zorder=3.6)
        ax.plot(ends, y, color=_LAW_COLOR, lw=0.7 * unit, ls=(0, (1, 1.5)), zorder=3.6)


def law_handles(table: pd.DataFrame) -> tuple[list[Line2D], list[str]]:
    """Handles and names of the power laws drawn."""
    handles, names = [], []
    for phase, rows in table.groupby("phase", sort=True):
        row = rows.iloc[0]
        handles.append(Line2D([], [], **_law_look(str(phase))))
        ends = f"({row['exponent_low']:z.1f}, {row['exponent_high']:z.1f})"
        names.append(f"N ~ size^{row['exponent']:z.1f} {ends}".replace("-", "−"))
    return handles, names


def _law_look(phase: str) -> dict[str, Any]:
    return {"color": _LAW_COLOR, "lw": 1.0 * style.scale(), "ls": _LOOKS[phase]["ls"]}
