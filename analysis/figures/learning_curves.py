"""Learning curves within the sequence: accuracy against examples seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from metaphase.analysis import labels
from metaphase.analysis.figures import axes, panels, style, yardstick_lines
from metaphase.analysis.statistics import yardsticks as yards
from metaphase.analysis.statistics.intervals import accuracy_interval
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema

MOST_BANDS = 7  # numbers of tasks whose lines have their intervals around them, unsmoothed
_NARROWEST = 1.35  # inches, of a panel


def curve_table(curves: pd.DataFrame, classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy against examples seen, of every finished cell.

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
        split: any split of the curves, `unseen/<dataset>` included.

    Returns:
        A row for each (model_size, num_tasks, seed, examples_seen): `accuracy` and the ends `low`
        and `high` of its 95% interval (normal, over sequences). Seeds are not averaged: close to a
        transition they are bimodal, and no model learns along their mean.
    """
    require_one_condition(classified)
    keys = ["model_size", "num_tasks", "seed"]
    done = classified.loc[classified["status"] == schema.DONE, ["cell_id", *keys]]
    needed = ["cell_id", "position", "accuracy", "accuracy_se"]
    rows = curves.loc[curves["split"] == split, needed].merge(done, on="cell_id")
    low, high = accuracy_interval(rows["accuracy"], rows["accuracy_se"])
    rows = rows.assign(examples_seen=rows["position"] - 1, low=low, high=high)
    keys.append("examples_seen")
    return rows[[*keys, "accuracy", "low", "high"]].sort_values(keys, ignore_index=True)


def smoothing_window(positions: int) -> int:
    """Positions that a smoothed curve is a mean over: odd, about a tenth of them."""
    return 2 * (positions // 20) + 1


def smoothed(accuracy_RxT: np.ndarray, window: int) -> np.ndarray:
    """Centred running means along the last axis; at the ends of as many as there are on both sides,
    so that the first and the last position stay what they are.

    Args:
        accuracy_RxT: shape (..., positions).
        window: odd.
    """
    length = accuracy_RxT.shape[-1]
    sums = np.cumsum(np.insert(accuracy_RxT, 0, 0.0, axis=-1), axis=-1)
    at = np.arange(length)
    half = np.minimum(np.minimum(at, length - 1 - at), window // 2)
    return (sums[..., at + half + 1] - sums[..., at - half]) / (2 * half + 1)


def draw(
    table: pd.DataFrame,
    ax: Axes,
    colors: dict[float, np.ndarray],
    bands: bool,
    chance: float | None = None,
) -> Axes:
    """Learning curves of one model size: a colour a number of tasks, a line a seed.

    Args:
        table: rows of `curve_table` with one model size, in its order.
        ax: where to draw.
        colors: by number of tasks.
        bands: with intervals; else smoothed (`smoothing_window`), without.
        chance: accuracy without looking at inputs (`style.level`); a dotted line.
    """
    ax.set_ylim(0, 1)
    positions = int(table["examples_seen"].max()) + 1 if len(table) else 1
    ax.set_xlim(-0.03 * positions, 1.03 * positions - 1)
    x, lines_RxT, tasks_R = _lines(table)
    of_line = [colors[tasks] for tasks in tasks_R.tolist()]
    if bands:
        for _, rows in table.groupby(["num_tasks", "seed"]):
            color = colors[float(rows["num_tasks"].iloc[0])]
            ax.fill_between(rows["examples_seen"], rows["low"], rows["high"], alpha=0.15, lw=0,
                            color=color)  # fmt: skip
    elif len(x):
        lines_RxT = smoothed(lines_RxT, smoothing_window(len(x)))
    lines = np.stack([np.broadcast_to(x, lines_RxT.shape), lines_RxT], axis=-1)
    ax.add_collection(
        LineCollection(list(lines), colors=of_line, linewidths=0.8 * style.scale()), autolim=False
    )
    if chance is not None:
        style.draw_chance(ax, chance)
    return ax


def _lines(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The T numbers of examples seen, the accuracies of the R runs there (NaN where there is none),
    and the runs' numbers of tasks. A pivot of pandas takes many times as long."""
    x_T, at = np.unique(table["examples_seen"].to_numpy(dtype=float), return_inverse=True)
    runs = table[["num_tasks", "seed"]].to_numpy(dtype=float)
    begins = np.ones(len(runs), dtype=bool)
    begins[1:] = (runs[1:] != runs[:-1]).any(axis=1)
    accuracy_RxT = np.full((begins.sum(), len(x_T)), np.nan)
    accuracy_RxT[np.cumsum(begins) - 1, at] = table["accuracy"].to_numpy(dtype=float)
    return x_T, accuracy_RxT, runs[begins, 0]


def figure(
    curves: pd.DataFrame,
    classified: pd.DataFrame,
    title: str = "",
    yardsticks: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy against examples seen: a panel for every split and model size that has results.

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
        title: above all panels.
        yardsticks: from `analysis.load.load_yardsticks`; drawn where they are for a split.
    """
    done = classified[classified["status"] == schema.DONE]
    own = curves[curves["cell_id"].isin(done["cell_id"])]
    others = [s for s in sorted(own["split"].unique()) if s.startswith(f"{schema.UNSEEN}/")]
    splits = [schema.SEEN, schema.UNSEEN, *others]
    sizes, num_tasks = sorted(done["model_size"].unique()), sorted(done["num_tasks"].unique())
    colors = style.sequence_colors([float(n) for n in num_tasks])
    powers = labels.are_powers_of_two(num_tasks)
    few = len(num_tasks) <= MOST_BANDS
    tables = {split: curve_table(own, done, split) for split in splits}
    known = {} if yardsticks is None or yardsticks.empty else {
        split: yards.curves_table(yardsticks, done, split) for split in splits
    }  # fmt: skip
    known = {split: rows for split, rows in known.items() if len(rows)}
    columns = panels.facets(len(sizes), _NARROWEST)
    blocks = [sizes[at : at + columns[0]] for at in range(0, len(sizes), columns[0])]
    shown = yardstick_lines.shown(list(known.values()))
    number = labels.power_of_two if powers else labels.number
    names = [f"{number(n)} tasks" for n in num_tasks] if few else []
    rows_of_panels = len(blocks) * len(splits)
    height = 1.7 if len(sizes) == 1 else 1.05 if rows_of_panels < 7 else 0.75
    whole = panels.Panels(
        [len(block) for block in blocks for _ in splits], height, title,
        [_note(few, own)], [*names, "chance", *(yards.NAMES[name] for name in shown)],
        left=0.62, right=0.12 if few else 0.75, between=(0.14, 0.27),
        width=3.2 if len(sizes) == 1 else None,
    )  # fmt: skip
    places = [(block, split) for block in blocks for split in splits]
    for (block, split), row in zip(places, whole.rows, strict=True):
        for ax, size in zip(row, block, strict=True):
            rows = tables[split]
            draw(rows[rows["model_size"] == size], ax, colors, few, style.level(done, split))
            if split in known:
                yardstick_lines.draw(known[split], ax)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            ax.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
            ax.set(ylabel=f"accuracy,\n{split}", xlabel="examples seen")
            if split == splits[0]:
                ax.set_title(f"{style.MODEL_SIZE_LABEL} {labels.short_number(size)}")
    whole.label_outer()
    lines = [Line2D([], [], color=tuple(color), lw=style.scale()) for color in colors.values()]
    chance = Line2D([], [], color="#555555", lw=0.8 * style.scale(), ls=":")
    whole.legend([*(lines if few else []), chance, *yardstick_lines.handles(shown)])
    if not few:
        _color_bar(whole, num_tasks, powers)
    return whole.figure


def _note(few: bool, curves: pd.DataFrame) -> str:
    if few:
        return "lines: seeds, with their 95% intervals over sequences"
    window = smoothing_window(int(curves["position"].max()))
    means = f", running means over {window} positions" if window > 1 else ""
    return f"lines: seeds{means}; their intervals are left out"


def _color_bar(whole: panels.Panels, num_tasks: Sequence[float], powers: bool) -> None:
    """A bar with a step for each number of tasks."""
    count = len(num_tasks)
    steps = ListedColormap(list(style.sequence_colors(num_tasks).values()))
    bar = whole.colorbar(
        ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, count), steps),
        axes.tasks_label(powers),
    )
    axes.named_ticks(bar.ax, "y", [axes.tasks_text(n, powers) for n in num_tasks])
