"""Improvement within the sequence against the number of tasks, by model size and seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaphase.analysis import labels
from metaphase.analysis.figures import style, tiles
from metaphase.analysis.statistics.phases import require_one_condition, summarize_grid
from metaphase.core import schema
from metaphase.core.phases import DELTA


def seed_table(classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Improvement within the sequence on a split (seen or unseen), a row a finished cell.

    Returns:
        model_size, num_tasks, seed, phase, `improvement`, and its interval `low`, `high`.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    name = f"{split}_{schema.IMPROVEMENT}"
    columns = {name: "improvement", f"{name}_low": "low", f"{name}_high": "high"}
    keys = ["model_size", "num_tasks", "seed"]
    table = done[[*keys, "phase", *columns]].rename(columns=columns)
    return table.sort_values(keys).reset_index(drop=True)


def shade_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Stretches of numbers of tasks in the same majority phase, for the largest model size.

    Returns:
        A row a stretch, in order: `phase`, `left`, `right` in log2 units, `model_size`.
    """
    points = summarize_grid(classified)
    points = points[points["seeds"] > points["unfinished"]]
    largest = points["model_size"].max()
    points = points[points["model_size"] == largest].sort_values("num_tasks")
    edges = tiles.tile_edges(points["num_tasks"])
    stretches: list[tuple[str, float, float]] = []
    for phase, tasks in zip(points["phase"].astype(str), points["num_tasks"], strict=True):
        left, right = edges[tasks]
        if stretches and stretches[-1][0] == phase:
            stretches[-1] = (phase, stretches[-1][1], right)
        else:
            stretches.append((phase, left, right))
    table = pd.DataFrame(stretches, columns=["phase", "left", "right"])
    return table.assign(model_size=largest)


def draw(
    table: pd.DataFrame, ax: Axes, shades: pd.DataFrame | None = None, delta: float = DELTA
) -> Axes:
    """Improvement against number of tasks: a line a model size, a dot with interval a seed.

    Args:
        table: from `seed_table`; of more than 6 model sizes, 6 are drawn.
        ax: where to draw.
        shades: from `shade_table`; the phases behind the lines.
        delta: the threshold, drawn as a dotted line.
    """
    sizes = style.spread(table["model_size"])
    colors = style.sequence_colors(sizes)
    edges = tiles.tile_edges(table["num_tasks"])
    spacing = min(right - left for left, right in edges.values())
    ax.axhline(0, color="#888888", lw=0.6)
    ax.axhline(delta, color="#555555", lw=0.7, ls=":", label=f"δ = {delta:g}")
    for i, size in enumerate(sizes):
        rows = table[table["model_size"] == size]
        shift = 0.04 * spacing * (i - (len(sizes) - 1) / 2)  # so that intervals don't coincide
        x = np.log2(rows["num_tasks"]) + shift
        ax.vlines(x, rows["low"], rows["high"], color=colors[size], lw=0.6, alpha=0.6)
        ax.plot(x, rows["improvement"], ls="", marker="o", ms=1.8, color=colors[size])
        mean = rows.groupby("num_tasks")["improvement"].mean()
        x = np.log2(mean.index.to_numpy(dtype=float)) + shift
        ax.plot(x, mean, color=colors[size], label=style.power_of_two(size))
    ax.set_xlabel(style.NUM_TASKS_LABEL)
    style.log2_ticks(ax, "x", table["num_tasks"])
    ax.set_xlim(min(edges.values())[0], max(edges.values())[1])
    if shades is not None:
        _draw_shades(ax, shades)
    return ax


def _draw_shades(ax: Axes, shades: pd.DataFrame) -> None:
    columns = (shades["phase"], shades["left"], shades["right"])
    for phase, left, right in zip(*columns, strict=True):
        ax.axvspan(left, right, color=style.COLORS[phase], alpha=0.22, lw=0, zorder=0)
        ax.text(
            (left + right) / 2, 1.01, labels.LETTERS[phase], size=7, ha="center",
            va="bottom", transform=ax.get_xaxis_transform(),
        )  # fmt: skip


def figure(classified: pd.DataFrame, title: str = "", delta: float = DELTA) -> Figure:
    """Improvement within the sequence on seen and on unseen tasks, phases shaded."""
    whole = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = whole.subplots(1, 2, sharey=True)
    shades = shade_table(classified)
    for ax, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        draw(seed_table(classified, split), ax, shades, delta)
        ax.set_title(f"{split} tasks", pad=14)
        ax.label_outer()
    axes[0].set_ylabel("improvement within the sequence\n(accuracy, last − first position)")
    size = style.power_of_two(shades["model_size"].iloc[0])
    whole.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center",
        title=style.MODEL_SIZE_LABEL, reverse=True,
    )  # fmt: skip
    style.title_above(whole, f"{title} (shaded: phases at model size {size})")
    return whole
