"""The geometry of maps: a rectangle of tiles, one a grid point, in log2 units on both axes.

A table of tiles has, beside whatever it shows, `left` and `right` along the number of tasks and
`bottom` and `top` along the model size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from metaphase.analysis.figures import style

POINT = ["model_size", "num_tasks"]


def tile_edges(values: Iterable[float]) -> dict[float, tuple[float, float]]:
    """Where each value's tile begins and ends on a log2 axis.

    Neighbours share an edge half-way, unless they are much farther apart than is typical: a gap in
    the grid looks like a gap.
    """
    ordered = np.unique(np.asarray(list(values), dtype=float))
    x = np.log2(ordered)
    spacing = np.diff(x)
    typical = float(np.median(spacing)) if len(spacing) else 1.0
    spacing = np.where(spacing > 1.5 * typical, typical, spacing)
    half = np.concatenate([[typical], spacing, [typical]]) / 2
    edges = zip((x - half[:-1]).tolist(), (x + half[1:]).tolist(), strict=True)
    return dict(zip(ordered.tolist(), edges, strict=True))


def rectangle(points: pd.DataFrame) -> pd.DataFrame:
    """A tile for every model size with every number of tasks that occur in `points`.

    Returns:
        model_size, num_tasks, left, right, bottom, top, ordered by the first two.
    """
    across = tile_edges(points["num_tasks"])
    upward = tile_edges(points["model_size"])
    rows = [
        (int(size), int(tasks), *across[tasks], *upward[size])
        for size in upward
        for tasks in across
    ]
    return pd.DataFrame(rows, columns=[*POINT, "left", "right", "bottom", "top"])


def frame(ax: Axes, tiles: pd.DataFrame) -> None:
    """Axes that just hold the tiles, labelled in powers of two, without a frame."""
    ax.set_xlim(tiles["left"].min(), tiles["right"].max())
    ax.set_ylim(tiles["bottom"].min(), tiles["top"].max())
    style.log2_ticks(ax, "x", tiles["num_tasks"])
    style.log2_ticks(ax, "y", tiles["model_size"])
    ax.set_xlabel(style.NUM_TASKS_LABEL)
    ax.set_ylabel(style.MODEL_SIZE_LABEL)
    for spine in ax.spines.values():
        spine.set_visible(False)


def add(ax: Axes, tiles: pd.DataFrame, inset: float = 0.0, **look: Any) -> None:
    """Draw tiles as one collection.

    Args:
        ax: where to draw.
        tiles: left, right, bottom, top.
        inset: share of the width and height that is left free at each side.
        look: properties of the collection, such as `facecolors`.
    """
    left, right, bottom, top = (tiles[c].to_numpy() for c in ("left", "right", "bottom", "top"))
    dx, dy = inset * (right - left), inset * (top - bottom)
    left, right, bottom, top = left + dx, right - dx, bottom + dy, top - dy
    corners = np.stack([[left, bottom], [right, bottom], [right, top], [left, top]])  # 4, 2, tiles
    ax.add_collection(PolyCollection(list(corners.transpose(2, 0, 1)), **look))


def boundary(
    tiles: pd.DataFrame, log2_num_tasks: pd.Series
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """A line of steps through the rows of a map.

    Args:
        tiles: of the whole map.
        log2_num_tasks: by model size, where the step of its row is; NaN breaks the line.

    Returns:
        The line's x and y, shape (2 rows,), and `bottom` and `top` by model size.
    """
    rows = tiles.groupby("model_size")[["bottom", "top"]].first()
    x = np.repeat(log2_num_tasks.reindex(rows.index).to_numpy(dtype=float), 2)
    return x, rows.to_numpy().ravel(), rows
