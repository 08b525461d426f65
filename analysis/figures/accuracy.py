"""Heat maps of the accuracy at the last positions, over model size and number of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from metaphase.analysis.figures import style, tiles
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.core import schema


def tile_table(classified: pd.DataFrame, split: str) -> pd.DataFrame:
    """Accuracy at the last positions of a split, a row for every grid point.

    Returns:
        model_size, num_tasks, `accuracy` (mean over the seeds that finished; NaN if none), `seeds`
        (how many), and the tile's left, right, bottom, top in log2 units.
    """
    require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    groups = done.groupby(tiles.POINT)[f"{split}_{schema.LAST}"]
    found = pd.DataFrame({"accuracy": groups.mean(), "seeds": groups.count()}).reset_index()
    table = tiles.rectangle(classified).merge(found, how="left", validate="one_to_one")
    return table.assign(seeds=table["seeds"].fillna(0).astype(int))


def draw(table: pd.DataFrame, ax: Axes, cmap: Colormap = style.ACCURACY_MAP) -> Axes:
    """Heat map of a tile table's `accuracy`; colours run from 0 to 1 in every map."""
    tiles.frame(ax, table)
    known = table[table["accuracy"].notna()]
    for spine in ax.spines.values():  # frames what has no result yet
        spine.set(visible=True, color="#b0b0b0", linewidth=0.5)
    colors = cmap(known["accuracy"].to_numpy())
    tiles.add(ax, known, facecolors=colors, edgecolors=colors, linewidths=0.3)
    return ax


def add_scale(figure: Figure, axes: Sequence[Axes] | np.ndarray, chance: float) -> None:
    """The colour bar of `draw` beside the axes, chance marked on it."""
    scale = ScalarMappable(Normalize(0, 1), style.ACCURACY_MAP)
    bar = figure.colorbar(scale, ax=axes, label="accuracy at the last positions")
    bar.outline.set_visible(False)
    bar.ax.axhline(chance, color="white", lw=1)
    bar.ax.text(-0.3, chance, "chance", size=6, ha="right", va="center")


def figure(classified: pd.DataFrame, title: str = "") -> Figure:
    """Heat maps of the accuracy at the last positions on seen and on unseen tasks."""
    whole = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = whole.subplots(1, 2, sharey=True)
    for ax, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        draw(tile_table(classified, split), ax)
        ax.set_title(f"{split} tasks")
        ax.label_outer()
    add_scale(whole, axes, classified["chance"].mean())
    style.title_above(whole, title)
    return whole
