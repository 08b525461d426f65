"""The figures: for each, a function that computes its table and one that draws it on given axes.

Tables are of one condition (see `analysis.statistics.phases.split_conditions`), ordered and
complete: tests check them, and they can be drawn by other means. Axes are log2 of the model size
and of the number of tasks. What has no result yet stays blank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy import special

from metaphase.analysis.figures import style
from metaphase.analysis.questions.yardsticks import curves_table as yardstick_curves
from metaphase.analysis.questions.yardsticks import draw_curves as draw_yardsticks
from metaphase.analysis.questions.yardsticks import label_ends as label_yardsticks
from metaphase.analysis.statistics.phases import (
    DELTA,
    GENERALIZING,
    IDENTIFYING,
    PHASES,
    require_one_condition,
    summarize_grid,
)
from metaphase.core import schema

BAND = 0.95  # confidence of the bands around learning curves

# ---------------------------------------------------------------------------------- phase map


def phase_map_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Tiles of the phase map: a row for every grid point and seed, finished or not.

    Returns:
        model_size, num_tasks, seed, `phase` (null if there is no result), `status` (same), the
        tile's `left`, `right`, `bottom`, `top` in log2 units (a grid point's seeds stand side by
        side), and `unanimous`: all seeds of the grid point finished in the same phase.
    """
    require_one_condition(classified)
    seeds = np.sort(classified["seed"].unique())
    across = style.tile_edges(classified["num_tasks"])
    upward = style.tile_edges(classified["model_size"])
    index = pd.MultiIndex.from_product(
        [[int(v) for v in upward], [int(v) for v in across], seeds],
        names=["model_size", "num_tasks", "seed"],
    )
    found = classified.set_index(index.names)[["phase", "status"]]
    table = found.reindex(index).reset_index()
    left, right = np.array([across[v] for v in table["num_tasks"]]).T
    bottom, top = np.array([upward[v] for v in table["model_size"]]).T
    strip = np.searchsorted(seeds, table["seed"])
    table["left"] = left + (right - left) * strip / len(seeds)
    table["right"] = left + (right - left) * (strip + 1) / len(seeds)
    table["bottom"], table["top"] = bottom, top
    point = table.groupby(["model_size", "num_tasks"])
    table["unanimous"] = (point["phase"].transform("nunique") == 1) & (
        (table["status"] == schema.DONE).groupby([table["model_size"], table["num_tasks"]])
    ).transform("all")
    return table


def draw_phase_map(table: pd.DataFrame, ax: Axes, transitions: pd.DataFrame | None = None) -> Axes:
    """Tiles coloured and lettered by phase, one strip a seed; where phases begin as steps.

    Args:
        table: from `phase_map_table`.
        ax: where to draw.
        transitions: of the same condition, from
            `analysis.statistics.transitions.estimate_transitions`.
    """
    _frame_tiles(ax, table)
    known = table[table["phase"].notna()]
    fill = list(known["phase"].astype(str).map(style.COLORS))
    _add_tiles(ax, known, facecolors=fill, edgecolors=fill, linewidths=0.2, antialiaseds=False)
    extent = {"left": "min", "right": "max", "bottom": "min", "top": "max", "phase": "count"}
    points = table.groupby(["model_size", "num_tasks"]).agg(extent)
    _add_tiles(ax, points, facecolors="none", edgecolors="white", linewidths=1.0)
    blank = points[points["phase"] == 0]
    _add_tiles(
        ax,
        blank,
        inset=0.06,
        facecolors="none",
        edgecolors="#b0b0b0",
        linewidths=0.5,
        linestyles=":",
    )
    _letter_tiles(ax, known)
    if transitions is not None:
        _draw_boundaries(ax, table, transitions)
    _phase_legend(ax, table, transitions is not None)
    return ax


def _letter_tiles(ax: Axes, known: pd.DataFrame) -> None:
    """One letter a tile where its seeds agree, else one a strip, as large as fits."""
    unit = ax.transData.transform([(0, 0), (1, 1)])  # pixels
    points_per_x, points_per_y = (unit[1] - unit[0]) * 72 / ax.figure.dpi

    keys = ["model_size", "num_tasks"]
    tiles, whole = known.groupby(keys), known["unanimous"]
    letters = known.assign(
        left=known["left"].mask(whole, tiles["left"].transform("min")),
        right=known["right"].mask(whole, tiles["right"].transform("max")),
    )[~(whole & known.duplicated(keys))]
    for row in letters.to_dict("records"):
        width, height = row["right"] - row["left"], row["top"] - row["bottom"]
        size = min(9.0, width * points_per_x * 0.85, height * points_per_y)
        if size < 3.5:
            continue  # the colours alone must do
        done = row["status"] == schema.DONE
        ax.text(
            (row["left"] + row["right"]) / 2,
            (row["bottom"] + row["top"]) / 2,
            style.LETTERS[row["phase"]] if done else style.UNFINISHED_LETTER,
            color=style.INK[row["phase"]] if done else "#b00020",
            size=size,
            ha="center",
            va="center_baseline",
            family="DejaVu Sans Mono",
            weight="bold",
            clip_on=True,
        )


_BOUNDARY = {IDENTIFYING: (0, (2.5, 1.2)), GENERALIZING: "-"}  # dashes


def _draw_boundaries(ax: Axes, table: pd.DataFrame, transitions: pd.DataFrame) -> None:
    """A step at each model size's estimate; a whisker over its interval, cut at the map's edge."""
    rows = table.groupby("model_size")[["bottom", "top"]].first()
    edge_left, edge_right = table["left"].min(), table["right"].max()
    halo = [withStroke(linewidth=3.0, foreground="white")]
    for phase, dashes in _BOUNDARY.items():
        steps = transitions[transitions["begins"] == phase].set_index("model_size")
        steps = steps.reindex(rows.index)  # a NaN breaks the line
        x = np.repeat(steps["log2_num_tasks"].to_numpy(dtype=float), 2)
        y = rows.to_numpy().ravel()
        ax.plot(x, y, color="black", linestyle=dashes, lw=1.4, path_effects=halo, zorder=4)
        inside = steps["log2_num_tasks"].notna()
        shift = 0.34 if phase == GENERALIZING else -0.34  # above or below the tiles' letters
        middle = rows.mean(axis=1) + shift * (rows["top"] - rows["bottom"])
        low, high = (steps[name].clip(edge_left, edge_right)[inside] for name in ("low", "high"))
        ax.hlines(
            middle[inside], low, high, color="black", lw=0.9, path_effects=halo, zorder=4
        )  # fmt: skip


def _phase_legend(ax: Axes, table: pd.DataFrame, boundaries: bool) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=style.COLORS[phase], label=f"{style.LETTERS[phase]}  {phase}")
        for phase in reversed(PHASES)
    ]
    if (table["status"].notna() & (table["status"] != schema.DONE)).any():
        handles.append(
            Line2D([], [], marker="x", ls="", color="#b00020", ms=4, label="diverged or failed")
        )
    if table["phase"].isna().any():
        handles.append(Patch(facecolor="white", edgecolor="#c8c8c8", ls=":", label="no result yet"))
    if boundaries:
        for phase, dashes in _BOUNDARY.items():
            line = Line2D([], [], color="black", ls=dashes, lw=1.4, label=f"{phase} begins")
            handles.append(line)
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.8)


# ---------------------------------------------------------------------------- accuracy heatmap


def accuracy_table(classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy at the last positions of a split, a row for every grid point.

    Returns:
        model_size, num_tasks, `accuracy` (mean over the seeds that finished; NaN if none), `seeds`
        (how many), and the tile's left, right, bottom, top in log2 units.
    """
    require_one_condition(classified)
    across = style.tile_edges(classified["num_tasks"])
    upward = style.tile_edges(classified["model_size"])
    index = pd.MultiIndex.from_product(
        [[int(v) for v in upward], [int(v) for v in across]], names=["model_size", "num_tasks"]
    )
    done = classified[classified["status"] == schema.DONE]
    groups = done.groupby(index.names)[f"{split}_{schema.LAST}"]
    table = pd.DataFrame({"accuracy": groups.mean(), "seeds": groups.count()}).reindex(index)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table = table.reset_index()
    table["left"], table["right"] = np.array([across[v] for v in table["num_tasks"]]).T
    table["bottom"], table["top"] = np.array([upward[v] for v in table["model_size"]]).T
    return table


def draw_accuracy(table: pd.DataFrame, ax: Axes, cmap: Colormap = style.ACCURACY_MAP) -> Axes:
    """Heatmap from `accuracy_table`; colours run from accuracy 0 to 1 in every such map."""
    _frame_tiles(ax, table)
    known = table[table["accuracy"].notna()]
    for spine in ax.spines.values():  # frames what has no result yet
        spine.set(visible=True, color="#b0b0b0", linewidth=0.5)
    colors = cmap(known["accuracy"].to_numpy())
    _add_tiles(ax, known, facecolors=colors, edgecolors=colors, linewidths=0.3)
    return ax


def accuracy_scale() -> ScalarMappable:
    """What a colour bar beside `draw_accuracy` shows."""
    return ScalarMappable(Normalize(0, 1), style.ACCURACY_MAP)


# --------------------------------------------------------------- improvement within a sequence


def improvement_table(classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Improvement within the sequence on a split (seen or unseen), a row a finished cell.

    Returns:
        model_size, num_tasks, seed, phase, `improvement`, and its interval `low`, `high`.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    name = f"{split}_{schema.IMPROVEMENT}"
    columns = {name: "improvement", f"{name}_low": "low", f"{name}_high": "high"}
    keep = ["model_size", "num_tasks", "seed", "phase", *columns]
    return (
        done[keep].rename(columns=columns).sort_values(["model_size", "num_tasks", "seed"])
    ).reset_index(drop=True)


def draw_improvement(
    table: pd.DataFrame, ax: Axes, shades: pd.DataFrame | None = None, delta: float = DELTA
) -> Axes:
    """Improvement against number of tasks: a line a model size, a dot with interval a seed.

    Args:
        table: from `improvement_table`; of more than 6 model sizes, 6 are drawn.
        ax: where to draw.
        shades: from `shade_table`; the phases behind the lines.
        delta: the threshold, drawn as a dotted line.
    """
    sizes = style.spread(table["model_size"])
    colors = style.sequence_colors(sizes)
    edges = style.tile_edges(table["num_tasks"])
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


def shade_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Stretches of numbers of tasks in the same majority phase, for the largest model size.

    Returns:
        A row a stretch, in order: `phase`, `left`, `right` in log2 units, `model_size`.
    """
    points = summarize_grid(classified)
    points = points[points["seeds"] > points["unfinished"]]
    largest = points["model_size"].max()
    points = points[points["model_size"] == largest].sort_values("num_tasks")
    edges = style.tile_edges(points["num_tasks"])
    stretches: list[tuple[str, float, float]] = []
    for phase, tasks in zip(points["phase"].astype(str), points["num_tasks"], strict=True):
        left, right = edges[tasks]
        if stretches and stretches[-1][0] == phase:
            stretches[-1] = (phase, stretches[-1][1], right)
        else:
            stretches.append((phase, left, right))
    table = pd.DataFrame(stretches, columns=["phase", "left", "right"])
    return table.assign(model_size=largest)


def _draw_shades(ax: Axes, shades: pd.DataFrame) -> None:
    columns = (shades["phase"], shades["left"], shades["right"])
    for phase, left, right in zip(*columns, strict=True):
        ax.axvspan(left, right, color=style.COLORS[phase], alpha=0.22, lw=0, zorder=0)
        ax.text(
            (left + right) / 2, 1.01, style.LETTERS[phase], size=7, ha="center",
            va="bottom", transform=ax.get_xaxis_transform(),
        )  # fmt: skip


# ------------------------------------------------------------------------------ learning curves


def curves_table(curves: pd.DataFrame, classified: pd.DataFrame, split: str) -> pd.DataFrame:
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
    rows = curves[curves["split"] == split].merge(done, on="cell_id")
    half = special.ndtri((1 + BAND) / 2) * rows["accuracy_se"]
    rows = rows.assign(
        examples_seen=rows["position"] - 1,
        low=(rows["accuracy"] - half).clip(0, 1),
        high=(rows["accuracy"] + half).clip(0, 1),
    )
    keys.append("examples_seen")
    return rows[[*keys, "accuracy", "low", "high"]].sort_values(keys, ignore_index=True)


def draw_curves(
    table: pd.DataFrame, ax: Axes, num_tasks: Sequence[float], chance: float | None = None
) -> Axes:
    """Learning curves of one model size: a colour a number of tasks, a line with band a seed.

    Args:
        table: rows of `curves_table` with one model size.
        ax: where to draw.
        num_tasks: which to draw; their order sets the colours, so panels agree.
        chance: accuracy of always guessing the commonest class; a dotted line.
    """
    ax.set_ylim(0, 1)  # first, so that it isn't fitted to every line
    colors = style.sequence_colors(num_tasks)
    for tasks in num_tasks:
        ax.plot([], [], color=colors[tasks], label=style.power_of_two(tasks))
        rows = table[table["num_tasks"] == tasks].sort_values(["seed", "examples_seen"])
        ends = np.flatnonzero(np.diff(rows["seed"])) + 1
        x, low, high, accuracy = (  # all seeds at once, which costs little; a NaN between them
            np.insert(rows[name].to_numpy(dtype=float), ends, np.nan)
            for name in ("examples_seen", "low", "high", "accuracy")
        )
        ax.fill_between(x, low, high, color=colors[tasks], alpha=0.15, lw=0)
        ax.plot(x, accuracy, color=colors[tasks], lw=0.9)
    if chance is not None:
        ax.axhline(chance, color="#555555", lw=0.8, ls=":", label="chance")
    return ax


# --------------------------------------------------------------------------------- whole figures


def phase_map_figure(
    classified: pd.DataFrame, transitions: pd.DataFrame | None = None, title: str = ""
) -> Figure:
    """The phase map with its boundaries."""
    table = phase_map_table(classified)
    columns, rows = table["num_tasks"].nunique(), table["model_size"].nunique()
    width, height = np.clip(0.5 * columns, 2.6, 5.1), np.clip(0.45 * rows, 1.6, 4.0)  # inches
    left, below, legend = 0.55, 0.45, 1.5
    title = style.wrap(title, width + legend)
    above = 0.3 + 0.14 * title.count("\n")
    figure = Figure(figsize=(left + width + legend, below + height + above))
    across, upward = figure.get_size_inches()
    ax = figure.add_axes((left / across, below / upward, width / across, height / upward))
    draw_phase_map(table, ax, transitions)
    ax.set_title(title, loc="left")
    return figure


def accuracy_figure(classified: pd.DataFrame, title: str = "") -> Figure:
    """Heatmaps of the accuracy at the last position on seen and on unseen tasks."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        draw_accuracy(accuracy_table(classified, split), ax)
        ax.set_title(f"{split} tasks")
        ax.label_outer()
    bar = figure.colorbar(accuracy_scale(), ax=axes, label="accuracy at the last positions")
    bar.outline.set_visible(False)
    chance = classified["chance"].mean()
    bar.ax.axhline(chance, color="white", lw=1)
    bar.ax.text(-0.3, chance, "chance", size=6, ha="right", va="center")
    style.title_above(figure, title)
    return figure


def improvement_figure(classified: pd.DataFrame, title: str = "", delta: float = DELTA) -> Figure:
    """Improvement within the sequence on seen and on unseen tasks, phases shaded."""
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shades = shade_table(classified)
    for ax, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        draw_improvement(improvement_table(classified, split), ax, shades, delta)
        ax.set_title(f"{split} tasks", pad=14)
        ax.label_outer()
    axes[0].set_ylabel("improvement within the sequence\n(accuracy, last − first position)")
    handles, labels = axes[0].get_legend_handles_labels()
    size = style.power_of_two(shades["model_size"].iloc[0])
    figure.legend(
        handles, labels, loc="outside right center", title=style.MODEL_SIZE_LABEL, reverse=True
    )
    style.title_above(figure, f"{title} (shaded: phases at model size {size})")
    return figure


def curves_figure(
    curves: pd.DataFrame,
    classified: pd.DataFrame,
    title: str = "",
    yardsticks: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy against examples seen: a row a split, a column a model size (at most 4).

    Args:
        curves: from `analysis.load.load_curves`.
        classified: the cells of one condition.
        title: above all panels.
        yardsticks: from `analysis.load.load_yardsticks`; drawn where they are for a split.
    """
    done = classified[classified["status"] == schema.DONE]
    own = curves.loc[curves["cell_id"].isin(done["cell_id"]), "split"].unique()
    found = [s for s in sorted(own) if s.startswith(f"{schema.UNSEEN}/")]
    splits = [schema.SEEN, schema.UNSEEN, *found]
    sizes = style.spread(done["model_size"], 4)
    num_tasks = style.spread(done["num_tasks"], 7)
    width = {1: 3.4, 2: 2.5}.get(len(sizes), 1.8)  # inches a panel
    margin = 0.6 if yardsticks is None or yardsticks.empty else 2.0  # for their names
    figure = Figure(
        figsize=(margin + width * len(sizes), 1.1 + 1.7 * len(splits)), layout="constrained"
    )
    axes = figure.subplots(len(splits), len(sizes), sharex=True, sharey=True, squeeze=False)
    for row, split in zip(axes, splits, strict=True):
        table = curves_table(curves, done, split)
        for ax, size in zip(row, sizes, strict=True):
            draw_curves(table[table["model_size"] == size], ax, num_tasks, done["chance"].mean())
            if yardsticks is not None:
                known = draw_yardsticks(yardstick_curves(yardsticks, done, split), ax)
                if known and ax is row[-1]:
                    label_yardsticks(known, ax)
        row[0].set_ylabel(f"accuracy,\n{split} tasks")
    for ax, size in zip(axes[0], sizes, strict=True):
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {style.power_of_two(size)}")
    for ax in axes[-1]:
        ax.set_xlabel("examples seen")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", title=style.NUM_TASKS_LABEL,
        ncols=len(labels), handlelength=1.5, columnspacing=1.2,
    )  # fmt: skip
    style.title_above(figure, title)
    return figure


# ------------------------------------------------------------------------------------- helpers


def _frame_tiles(ax: Axes, table: pd.DataFrame) -> None:
    ax.set_xlim(table["left"].min(), table["right"].max())
    ax.set_ylim(table["bottom"].min(), table["top"].max())
    style.log2_ticks(ax, "x", table["num_tasks"])
    style.log2_ticks(ax, "y", table["model_size"])
    ax.set_xlabel(style.NUM_TASKS_LABEL)
    ax.set_ylabel(style.MODEL_SIZE_LABEL)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _add_tiles(ax: Axes, boxes: pd.DataFrame, inset: float = 0.0, **look: Any) -> None:
    left, right, bottom, top = (boxes[c].to_numpy() for c in ("left", "right", "bottom", "top"))
    dx, dy = inset * (right - left), inset * (top - bottom)
    left, right, bottom, top = left + dx, right - dx, bottom + dy, top - dy
    corners = np.stack([[left, bottom], [right, bottom], [right, top], [left, top]])  # 4, 2, tiles
    ax.add_collection(PolyCollection(list(corners.transpose(2, 0, 1)), **look))
