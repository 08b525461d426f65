"""Heat maps of a sweep beside the paper's Figure 2, from the tables of `published.figure2`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metaphase.analysis.figures import accuracy, style, tiles
from metaphase.analysis.published.figure2 import SIDES, SOURCE
from metaphase.core import schema

DIFFERENCE_LIMIT = 0.5  # of the colours of differences
_DIFFERENCE_MAP = colormaps["RdBu_r"]


def tile_table(points: pd.DataFrame, split: str) -> pd.DataFrame:
    """Tiles of a split's heat maps: model_size, num_tasks, paper, ours, difference, and the tile's
    left, right, bottom, top in log2 units.

    A row a grid point of the points' rectangle; NaN where there is no result in common.
    """
    columns = {f"{split}_{side}": side for side in SIDES}
    found = points[[*tiles.POINT, *columns]].rename(columns=columns)
    return tiles.rectangle(points).merge(found, how="left", validate="one_to_one")


def draw_difference(table: pd.DataFrame, ax: Axes) -> Axes:
    """Heat map of the differences of `tile_table`: blue where ours is lower, red higher."""
    limit = DIFFERENCE_LIMIT
    shade = table["difference"].clip(-limit, limit) / (2 * limit) + 0.5
    return accuracy.draw(table.assign(accuracy=shade), ax, _DIFFERENCE_MAP)


def figure(points: pd.DataFrame, shifts: pd.DataFrame, title: str = "") -> Figure:
    """The paper's heat maps, ours and the difference; on unseen tasks where half the rise is.

    Args:
        points: from `published.figure2.compare_points`.
        shifts: from `published.figure2.compare_transitions`.
        title: what the sweep is called.
    """
    whole = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = whole.subplots(2, 3, sharex=True, sharey=True)
    for row, split in zip(axes, (schema.SEEN, schema.UNSEEN), strict=True):
        table = tile_table(points, split)
        for ax, side in zip(row, SIDES[:2], strict=False):
            accuracy.draw(table.assign(accuracy=table[side]), ax)
        draw_difference(table, row[2])
        for ax, side in zip(row, ("paper", "ours", "ours − paper"), strict=True):
            ax.set_title(f"{side}, {split} tasks")
            style.log2_ticks(ax, "x", points["num_tasks"], most=9)
            ax.label_outer()
    half = shifts[shifts["measure"] == "half"].set_index("model_size")
    for side, ax, color, dashes in (("paper", axes[1, 2], "black", "-"),
                                    ("ours", axes[1, 2], "#c2185b", "--"),
                                    ("paper", axes[1, 0], "white", "-"),
                                    ("ours", axes[1, 1], "white", "-")):  # fmt: skip
        at = half[side].replace([np.inf, -np.inf], np.nan)
        x, y, _ = tiles.boundary(table, at)
        ax.plot(x, y, color=color, ls=dashes, lw=1.2, label=f"half of the rise, {side}")
    accuracy.add_scale(whole, axes[:, :2], points["chance_paper"].iloc[0])
    bounds = Normalize(-DIFFERENCE_LIMIT, DIFFERENCE_LIMIT)
    whole.colorbar(ScalarMappable(bounds, _DIFFERENCE_MAP), ax=axes[:, 2], label="difference")
    whole.legend(*axes[1, 2].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    style.title_above(whole, f"{title} beside {SOURCE}")
    return whole
