"""The loss by position, of models and beside it of the predictors, which are named at the ends of
their lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metaphase.analysis import labels
from metaphase.analysis.figures import panels, style
from metaphase.analysis.figures.learning_curves import smoothed, smoothing_window
from metaphase.analysis.statistics.relative_distance import POSITION, SIZE, TASKS, predictors
from metaphase.core import schema

SHORT = {"memorizing": "M", "generalizing": "G", "no_context": "none"}  # as lines are named
NOTE = (
    "M: predictor that knows the tasks trained on; G: that knows what tasks are drawn from; "
    "none: without context"
)
_LOOKS: dict[str, dict[str, Any]] = {
    "memorizing": {"color": "#b36b00", "ls": "-"},
    "generalizing": {"color": "black", "ls": "-"},
    "no_context": {"color": "#777777", "ls": (0, (1, 1))},
}
_OTHER: dict[str, Any] = {"color": "#444444", "ls": (0, (4, 1, 1, 1))}
_NARROWEST = 1.5  # inches, of a panel
_LETTER = 0.58  # of a font's size, the width of a letter


def short_name(predictor: str) -> str:
    """As its line is named: memorizing -> "M", unigram_memorizing -> "unigram M"."""
    if predictor in SHORT:
        return SHORT[predictor]
    return " ".join(SHORT.get(word, word) for word in predictor.split("_"))


def spread(places: np.ndarray, apart: float) -> np.ndarray:
    """Places moved as little as keeps them in order and at least so far apart."""
    order = np.argsort(places, kind="stable")
    moved = places[order].astype(float)
    for _ in range(100):
        short = apart - np.diff(moved)
        if not (short > 1e-6 * apart).any():
            break
        for i in np.flatnonzero(short > 0):
            push = (apart - (moved[i + 1] - moved[i])) / 2
            if push > 0:
                moved[i], moved[i + 1] = moved[i] - push, moved[i + 1] + push
    out = np.empty_like(moved)
    out[order] = moved
    return out


def draw(table: pd.DataFrame, ax: Axes, colors: Mapping[float, np.ndarray]) -> None:
    """Lines of one split and number of tasks: a colour a model size, a line a seed, thick the
    predictors, mean over seeds, with their names. The axes must have their final place.

    Args:
        table: rows of `analysis.statistics.relative_distance.loss_table`.
        ax: where to draw.
        colors: by model size.
    """
    positions = int(table[POSITION].max())
    window, unit = smoothing_window(positions), style.scale()
    of_table = table[[*predictors(table), "loss"]].to_numpy(dtype=float)
    low, high = np.nanquantile(of_table, [0.002, 0.998])
    margin = 0.08 * (high - low) or 0.1
    limits = low - margin, high + margin
    ax.set_ylim(*limits)
    wide = table.pivot(index=[SIZE, "seed"], columns=POSITION, values="loss")
    x = wide.columns.to_numpy(dtype=float) - 1
    lines_RxT = smoothed(wide.to_numpy(dtype=float), window)
    lines = np.stack([np.broadcast_to(x, lines_RxT.shape), lines_RxT], axis=-1)
    of_line = [colors[float(size)] for size in wide.index.get_level_values(SIZE)]
    ax.add_collection(LineCollection(list(lines), colors=of_line, linewidths=0.7 * unit, zorder=3),
                      autolim=False)  # fmt: skip
    ends: dict[str, tuple[float, str]] = {}
    for column in predictors(table):
        mean_T = table.groupby(POSITION)[column].mean().to_numpy(dtype=float)
        if np.isnan(mean_T).all():
            continue
        name = column.removeprefix("loss_")
        look = _LOOKS.get(name, _OTHER)
        line_T = smoothed(mean_T, window)
        ax.plot(x, line_T, lw=1.6 * unit, alpha=0.85, zorder=2, **look)
        ends[short_name(name)] = float(line_T[-1]), str(look["color"])
    size, left = style.small(), -0.03 * positions
    room = (0.6 + _LETTER * max(map(len, ends), default=0)) * size  # points, for the names
    share = min(0.5, room / (ax.bbox.width * 72 / ax.figure.dpi))
    ax.set_xlim(left, left + (float(x[-1]) - left) / (1 - share))
    if not ends:
        return
    points = ax.bbox.height * 72 / ax.figure.dpi
    apart = 1.05 * size * (limits[1] - limits[0]) / points
    at = spread(np.array([end for end, _ in ends.values()]), apart)
    at += max(0.0, limits[0] + apart / 2 - float(at.min()))  # the lowest stands above the axis
    for (name, (_, color)), y in zip(ends.items(), at, strict=True):
        ax.annotate(name, (x[-1], y), xytext=(0.3 * size, 0), textcoords="offset points",
                    va="center", ha="left", size=size, color=color, annotation_clip=False,
                    zorder=4)  # fmt: skip


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A row of panels for seen and for unseen tasks, a panel a number of tasks.

    Args:
        table: from `analysis.statistics.relative_distance.loss_table`.
        title: above all.
    """
    splits = [split for split in (schema.SEEN, schema.UNSEEN) if (table["split"] == split).any()]
    table = table[table["split"].isin(splits)]
    tasks, sizes = sorted(table[TASKS].unique()), sorted(table[SIZE].unique())
    columns = panels.facets(len(tasks), _NARROWEST)[0]
    blocks = [tasks[at : at + columns] for at in range(0, len(tasks), columns)]
    colors = style.sequence_colors([float(size) for size in sizes])
    last = int(table[POSITION].max()) - 1  # behind it are names
    ticks = np.asarray(MaxNLocator(4, integer=True).tick_values(0, last))
    window = smoothing_window(last + 1)
    means = f", running means over {window} positions" if window > 1 else ""
    names = [f"{style.MODEL_SIZE_LABEL} {labels.short_number(size)}" for size in sizes]
    whole = panels.Panels(
        [len(block) for block in blocks for _ in splits], 1.15, title,
        [NOTE, f"thin lines: models, a line a seed{means}"], names, left=0.62,
        between=(0.42, 0.3), width=3.2 if len(tasks) == 1 else None,
    )  # fmt: skip
    places = [(block, split) for block in blocks for split in splits]
    for (block, split), row in zip(places, whole.rows, strict=True):
        for ax, number in zip(row, block, strict=True):
            own = table[(table["split"] == split) & (table[TASKS] == number)]
            if len(own):
                draw(own, ax, colors)
            ax.set_xticks(ticks[(ticks >= 0) & (ticks <= last)])
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.set(ylabel=f"loss, {split}", xlabel="examples seen")
            if split == splits[0]:
                word = "task" if number == 1 else "tasks"
                ax.set_title(f"{labels.power_of_two(number)} {word}")
    whole.label_outer()
    for ax in whole.axes:  # each has its own scale: what N tasks can be predicted by differs much
        ax.yaxis.set_visible(True)
    whole.legend([Line2D([], [], color=tuple(c), lw=style.scale()) for c in colors.values()])
    return whole.figure
