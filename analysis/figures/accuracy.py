"""Heat maps of the accuracy at the last positions, over model size and number of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from metaphase.analysis.figures import outcomes, panels, style, tiles
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema

BIMODAL = 0.15  # between the worst and the best seed: both are shown beside their mean
MOST_VALUES = 100  # tiles of a map that are printed with their values
_MEAN_SHARE = 0.6  # of a tile's width, where seeds stand beside the mean


def tile_table(classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy at the last positions of a split, a row for every grid point.

    Returns:
        model_size, num_tasks, `accuracy` (mean over the seeds that finished; NaN if none),
        `lowest`, `highest` (of these seeds), `seeds` (how many), and the tile's left, right,
        bottom, top in log2 units.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    groups = done.groupby(tiles.POINT)[f"{split}_{schema.LAST}"]
    found = groups.agg(accuracy="mean", lowest="min", highest="max", seeds="count").reset_index()
    table = tiles.rectangle(classified).merge(found, how="left", validate="one_to_one")
    return table.assign(seeds=table["seeds"].fillna(0).astype(int))


def seed_table(
    classified: pd.DataFrame, split: str, table: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What stands beside or in place of the mean: seeds that are more than `BIMODAL` apart, and
    those without a result at a grid point that has others, or has none.

    Args:
        classified: the cells of one condition.
        split: of `core.schema`.
        table: from `tile_table`, if it is at hand.

    Returns:
        A row a seed, from the lowest accuracy at the bottom of the tile to the top: model_size,
        num_tasks, seed, `accuracy`, `outcome` (`figures.outcomes`), left, right, bottom, top.
    """
    table = tile_table(classified, split) if table is None else table
    seeds = pd.DataFrame({"seed": np.sort(classified["seed"].unique())})
    found = classified[[*tiles.POINT, "seed"]].assign(
        value=classified[f"{split}_{schema.LAST}"].astype(float),
        outcome=outcomes.of_cells(classified)["outcome"],
    )
    rows = table.merge(seeds, how="cross").merge(found, how="left", validate="one_to_one")
    rows["outcome"] = rows["outcome"].fillna(outcomes.MISSING)
    there = rows["outcome"].isin((*style.COLORS, outcomes.PLATEAU))
    everywhere = there.groupby([rows[key] for key in tiles.POINT]).transform("all")
    apart = rows["highest"] - rows["lowest"] > BIMODAL
    shown = rows.assign(accuracy=rows["value"].where(there))[apart | ~everywhere]
    shown["left"] += np.where(shown["seeds"] > 0, _MEAN_SHARE, 0) * (shown["right"] - shown["left"])
    ordered = shown.sort_values([*tiles.POINT, "accuracy"], na_position="last")
    groups = ordered.groupby(tiles.POINT)
    height = (ordered["top"] - ordered["bottom"]) / groups["seed"].transform("size")
    bottom = ordered["bottom"] + groups.cumcount() * height
    columns = [*tiles.POINT, "seed", "accuracy", "outcome", "left", "right", "bottom", "top"]
    return ordered.assign(bottom=bottom, top=bottom + height)[columns].reset_index(drop=True)


def draw(
    table: pd.DataFrame,
    ax: Axes,
    seeds: pd.DataFrame | None = None,
    cmap: Colormap = style.ACCURACY_MAP,
    norm: Normalize | None = None,
) -> Axes:
    """Heat map of a tile table's `accuracy`; colours run from 0 to 1 in every map. The axes must
    have their final place.

    Args:
        table: from `tile_table`, or any with its columns.
        ax: where to draw.
        seeds: from `seed_table`; None: the means alone.
        cmap, norm: of the colours.
    """
    norm = norm or Normalize(0, 1)
    tiles.frame(ax, table)
    for spine in ax.spines.values():  # frames what has no result yet
        spine.set(visible=True, color="#b0b0b0", linewidth=0.5 * style.scale())
    known = table[table["accuracy"].notna()]
    if seeds is not None:
        beside = seeds[seeds["accuracy"].notna()]
        points = pd.MultiIndex.from_frame(known[tiles.POINT])
        split = points.isin(pd.MultiIndex.from_frame(seeds[tiles.POINT]))
        width = known["right"] - known["left"]
        known = known.assign(right=known["left"] + width.where(~split, _MEAN_SHARE * width))
        _fill(ax, beside, cmap, norm)
        outcomes.draw_symbols(ax, seeds[seeds["accuracy"].isna()])
    _fill(ax, known, cmap, norm)
    if len(table) <= MOST_VALUES:
        _draw_values(ax, known, cmap, norm)
    return ax


def _fill(ax: Axes, table: pd.DataFrame, cmap: Colormap, norm: Normalize) -> None:
    colors = cmap(norm(table["accuracy"].to_numpy(dtype=float)))
    tiles.add(ax, table, facecolors=colors, edgecolors=colors, linewidths=0.3)


def _draw_values(ax: Axes, known: pd.DataFrame, cmap: Colormap, norm: Normalize) -> None:
    """The accuracy in each tile that has room: .07, .85; in differences with their sign."""
    across, upward = tiles.points_a_unit(ax)
    size = style.small()
    signed = norm(0) > 0.1
    for row in known.to_dict("records"):
        text = f"{row['accuracy']:{'+' if signed else ''}.2f}".replace("0.", ".", 1)
        width, height = row["right"] - row["left"], row["top"] - row["bottom"]
        if width * across < (0.62 * len(text) + 0.3) * size or height * upward < 1.3 * size:
            continue
        red, green, blue, _ = cmap(norm(row["accuracy"]))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
        ax.text(
            row["left"] + width / 2, row["bottom"] + height / 2, text, size=size, ha="center",
            va="center_baseline", color="white" if dark else "black",
        )  # fmt: skip


def add_scale(
    whole: panels.Panels, chance: Iterable[float], beside: Sequence[Axes] | None = None
) -> None:
    """The colour bar of `draw` beside panels (None: all), lines at levels of chance on it."""
    scale = ScalarMappable(Normalize(0, 1), style.ACCURACY_MAP)
    bar = whole.colorbar(scale, "accuracy", beside)
    for level in chance:
        bar.ax.axhline(level, color="white", lw=style.scale())


def map_height(table: pd.DataFrame, width: float) -> float:
    """Inches that a map of these tiles is high, given its width."""
    rows, columns = table["model_size"].nunique(), table["num_tasks"].nunique()
    return float(
        np.clip(0.4 * rows, 0.6, max(0.7, min(0.85 * width, 1.3 * rows * width / columns)))
    )


def figure(classified: pd.DataFrame, title: str = "") -> Figure:
    """Heat maps of the accuracy at the last positions on seen and on unseen tasks."""
    splits = (schema.SEEN, schema.UNSEEN)
    tables = {split: tile_table(classified, split) for split in splits}
    seeds = {split: seed_table(classified, split, table) for split, table in tables.items()}
    columns = 2 if style.room() > 5 else 1
    height = map_height(tables[schema.SEEN], (style.room() - 1.4) / columns)
    every = pd.concat(list(seeds.values()))
    notes = ["line on the scale: chance on new tasks"]
    if (every["accuracy"].notna()).any():
        notes.insert(0, f"right part of a tile: its seeds, where they are over {BIMODAL:g} apart "
                     "or some have no result")  # fmt: skip
    handles, names = outcomes.symbol_handles(every[every["accuracy"].isna()])
    whole = panels.Panels(
        panels.rows_of(2, columns), height, title, notes, names, right=0.95, between=(0.3, 0.5)
    )
    for ax, split in zip(whole.axes, splits, strict=True):
        draw(tables[split], ax, seeds[split])
        ax.set_title(f"{split} tasks")
    whole.label_outer()
    add_scale(whole, [style.level(classified, schema.UNSEEN)])
    whole.legend(handles)
    return whole.figure
