"""What examples bring, against the number of tasks: a panel a model size.

Drawn are the differences that `core.phases` compares with delta: `LEARNED`, what is reached on
unseen tasks above their level; `IMPROVED`, the improvement within the sequence on seen tasks; and
`AHEAD`, by how much seen tasks are better than unseen ones. The first above delta is generalizing,
both others are identifying.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metaphase.analysis import labels
from metaphase.analysis.figures import axes, panels, style, tiles
from metaphase.analysis.statistics.phases import require_one_condition, summarize_grid
from metaphase.core import schema
from metaphase.core.phases import CONFIDENCE, DELTA, PHASES

LEARNED, IMPROVED, AHEAD = "unseen_last", "seen_improvement", "seen_lead"
_LOOKS: dict[str, dict[str, Any]] = {
    LEARNED: {"color": "#3d2266", "marker": "o", "ls": "-"},
    IMPROVED: {"color": "#b35c00", "marker": "s", "ls": (0, (3, 1.2))},
    AHEAD: {"color": "#00705a", "marker": "D", "ls": (0, (1, 1))},
}
NAMES = {
    LEARNED: "unseen tasks: last − level",
    IMPROVED: "seen tasks: last − first",
    AHEAD: "last on seen − on unseen tasks",
}
_NARROWEST = 1.35  # inches, of a panel


def seed_table(classified: pd.DataFrame, effect: str) -> pd.DataFrame:
    """One of `NAMES`, a row a finished cell.

    Returns:
        model_size, num_tasks, seed, phase, `effect`, and its interval `low`, `high`.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    null = done["unseen_level"].astype(float) if effect == LEARNED else 0.0
    keys = ["model_size", "num_tasks", "seed"]
    columns = {"effect": effect, "low": f"{effect}_low", "high": f"{effect}_high"}
    table = done[[*keys, "phase"]].assign(
        **{name: done[column].astype(float) - null for name, column in columns.items()}
    )
    return table.sort_values(keys).reset_index(drop=True)


def shade_table(classified: pd.DataFrame, axis: str = "num_tasks") -> pd.DataFrame:
    """Stretches in the same majority phase along an axis of the grid, for each value of the other.

    Args:
        classified: the cells of one condition.
        axis: num_tasks or model_size.

    Returns:
        A row a stretch of grid points with a phase, in order: the other axis, `phase`, `left`,
        `right` in log2 units.
    """
    [other] = {*tiles.POINT} - {axis}
    points = summarize_grid(classified)
    done = classified.loc[classified["status"] == schema.DONE, tiles.POINT].drop_duplicates()
    points = points.merge(done).dropna(subset=["phase"]).sort_values([other, axis])
    edges = tiles.tile_edges(points[axis]) if len(points) else {}
    stretches: list[tuple[int, str, float, float]] = []
    for value, phase, place in zip(points[other], points["phase"], points[axis], strict=True):
        left, right = edges[place]
        if stretches and stretches[-1][:2] == (value, phase) and stretches[-1][3] == left:
            stretches[-1] = (value, phase, stretches[-1][2], right)
        else:
            stretches.append((value, phase, left, right))
    return pd.DataFrame(stretches, columns=[other, "phase", "left", "right"])


def draw(table: pd.DataFrame, ax: Axes, axis: str, effect: str, shift: float = 0.0) -> None:
    """One effect: a symbol with its interval a seed, a line through the means.

    Args:
        table: rows of `seed_table` of one model size, or of one number of tasks.
        ax: where to draw.
        axis: num_tasks or model_size: what is on x.
        effect: what the table is of; sets colour, symbol and dashes.
        shift: to the right, in log2 units, so that effects don't hide each other.
    """
    look, unit = _LOOKS[effect], style.scale()
    places, of = np.unique(table[axis].to_numpy(dtype=float), return_inverse=True)
    effects = table["effect"].to_numpy(dtype=float)
    x = np.log2(places)[of] + shift
    ends = np.stack([[x, x], table[["low", "high"]].to_numpy(dtype=float).T])  # 2, ends, rows
    tiles.draw_lines(ax, ends.transpose(2, 1, 0), color=look["color"], lw=0.6 * unit, alpha=0.7)
    ax.plot(x, effects, ls="", marker=look["marker"], ms=2 * unit, mew=0,
            color=look["color"])  # fmt: skip
    mean = np.bincount(of, effects) / np.bincount(of)
    ax.plot(np.log2(places) + shift, mean, color=look["color"], ls=look["ls"], lw=unit)


def figure(
    classified: pd.DataFrame,
    title: str = "",
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
) -> Figure:
    """What examples bring: a panel a model size, all of them; where the grid has one number of
    tasks a single panel with the model size on x.

    Args:
        classified: the cells of one condition.
        title: above all panels.
        delta: the threshold that cells were classified with.
        confidence: of the intervals, as they were classified with.
    """
    by_size = classified["num_tasks"].nunique() == 1 and classified["model_size"].nunique() > 1
    axis, other = ("model_size", "num_tasks") if by_size else ("num_tasks", "model_size")
    found = {effect: seed_table(classified, effect) for effect in NAMES}
    shades = shade_table(classified, axis)
    values = sorted(classified.loc[classified["status"] == schema.DONE, other].unique())
    by_value = {effect: dict(list(table.groupby(other))) for effect, table in found.items()}
    edges = tiles.tile_edges(classified[axis])
    spacing = min(right - left for left, right in edges.values())
    phases = [phase for phase in reversed(PHASES) if (shades["phase"] == phase).any()]
    whole = panels.Panels(
        panels.facets(len(values), _NARROWEST), 1.9 if len(values) == 1 else 1.05, title,
        [f"symbols: seeds, bars: {100 * confidence:.4g}% intervals over sequences, "
         "lines: means of seeds; shaded: the phase of most seeds"],
        [*NAMES.values(), f"δ = {delta:g}", *phases],
        left=0.62, width=4.2 if len(values) == 1 else None,
    )  # fmt: skip
    for ax, value in zip(whole.axes, values, strict=True):
        ax.axhline(0, color="#888888", lw=0.5 * style.scale())
        ax.axhline(delta, color="#333333", lw=0.7 * style.scale(), ls=":")
        for sign, (effect, table) in zip((-1, 0, 1), by_value.items(), strict=True):
            draw(table[value], ax, axis, effect, sign * 0.12 * spacing)
        shaded = shades[shades[other] == value]
        colors = [style.COLORS[str(phase)] for phase in shaded["phase"]]
        tiles.add_spans(ax, shaded["left"], shaded["right"], facecolors=colors, alpha=0.35)
        ax.set_xlim(min(edges.values())[0], max(edges.values())[1])
        if by_size:
            axes.sizes_axis(ax, "x", classified[axis])
            ax.set_title(f"{axes.tasks_text(value, False)} tasks")
        else:
            axes.tasks_axis(ax, "x", classified[axis])
            ax.set_title(f"{style.MODEL_SIZE_LABEL} {labels.short_number(value)}")
    low, high = _limits(found)
    for ax in whole.axes:
        ax.set_ylim(min(low, -0.1) - 0.03, max(high, 0.2) + 0.03)
        ax.set_ylabel("difference of\naccuracies")
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    whole.label_outer()
    look: dict[str, Any] = {"lw": style.scale(), "mew": 0}
    handles: list[Any] = [Line2D([], [], **look_of, **look) for look_of in _LOOKS.values()]
    handles.append(Line2D([], [], color="#333333", lw=0.7 * style.scale(), ls=":"))
    handles += [style.phase_patch(phase, 0.35) for phase in phases]
    whole.legend(handles)
    return whole.figure


def _limits(found: dict[str, pd.DataFrame]) -> tuple[float, float]:
    every = pd.concat(list(found.values()))
    return float(every["low"].min()), float(every["high"].max())
