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
from matplotlib.lines import Line2D

from metaphase.analysis.figures import axes
from metaphase.analysis.statistics import phases

POINT = phases.POINT


def tile_edges(values: Iterable[float]) -> dict[float, tuple[float, float]]:
    """Where each value's tile begins and ends on a log2 axis.

    Neighbours share an edge half-way, unless they are much farther apart than is typical, both by
    factor and by difference: a gap in the grid looks like a gap, but not the growing factors of a
    grid of equal differences.
    """
    ordered = np.unique(np.asarray(list(values), dtype=float))
    x = np.log2(ordered)
    spacing, difference = np.diff(x), np.diff(ordered)
    typical = float(np.median(spacing)) if len(spacing) else 1.0
    far = spacing > 1.5 * typical
    if far.any():
        far &= difference > 1.5 * np.median(difference)
    spacing = np.where(far, typical, spacing)
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
    """Axes that just hold the tiles, with the labels of both, without a frame."""
    ax.set_xlim(tiles["left"].min(), tiles["right"].max())
    ax.set_ylim(tiles["bottom"].min(), tiles["top"].max())
    axes.tasks_axis(ax, "x", tiles["num_tasks"])
    axes.sizes_axis(ax, "y", tiles["model_size"])
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
    if tiles.empty:
        return
    left, right, bottom, top = (tiles[c].to_numpy() for c in ("left", "right", "bottom", "top"))
    dx, dy = inset * (right - left), inset * (top - bottom)
    left, right, bottom, top = left + dx, right - dx, bottom + dy, top - dy
    corners = np.stack([[left, bottom], [right, bottom], [right, top], [left, top]])  # 4, 2, tiles
    polygons: Any = corners.transpose(2, 0, 1)  # as one array, which is fast
    ax.add_collection(PolyCollection(polygons, **look), autolim=False)


def add_spans(ax: Axes, left: Any, right: Any, **look: Any) -> None:
    """Draw stretches of the x axis over the whole height, as one collection.

    Args:
        ax: where to draw; its limits stay as they are.
        left, right: ends, shape (stretches,).
        look: properties of the collection, such as `facecolors`.
    """
    spans = pd.DataFrame({"left": left, "right": right, "bottom": 0.0, "top": 1.0})
    add(ax, spans, transform=ax.get_xaxis_transform(), linewidths=0, zorder=0, **look)


def draw_lines(ax: Axes, ends: np.ndarray, **look: Any) -> None:
    """Draw straight lines as one artist, which is much faster than one each.

    Args:
        ax: where to draw; its limits stay as they are.
        ends: in data coordinates, shape (lines, 2 ends, 2).
        look: properties of a Line2D.
    """
    gaps = np.full((len(ends), 1, 2), np.nan)
    x, y = np.concatenate([ends, gaps], axis=1).reshape(-1, 2).T
    line = Line2D(x, y, **{"solid_capstyle": "butt", **look})
    line.set_clip_on(True)
    ax.add_artist(line)


def points_a_unit(ax: Axes) -> tuple[float, float]:
    """Points that a unit of the x and of the y axis is long, as the axes stand now."""
    unit = ax.transData.transform([(0, 0), (1, 1)])  # pixels
    x, y = (unit[1] - unit[0]) * 72 / ax.figure.dpi
    return float(x), float(y)


def corners_in_points(ax: Axes, tiles: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Left, bottom, right and top of tiles in points of the figure, as the axes stand now, whatever
    their scales; each of shape (tiles,)."""
    pixels = [
        ax.transData.transform(np.stack([tiles[x], tiles[y]], axis=1).astype(float))
        for x, y in (("left", "bottom"), ("right", "top"))
    ]
    (left, bottom), (right, top) = (corner.T * 72 / ax.figure.dpi for corner in pixels)
    return left, bottom, right, top


def hatching(ax: Axes, tiles: pd.DataFrame, spacing: float) -> np.ndarray:
    """Diagonal lines within tiles, those of neighbours in line.

    A collection's own hatch draws its pattern once a tile, which takes seconds for thousands.

    Args:
        ax: where to draw, with its final limits and place.
        tiles: left, right, bottom, top.
        spacing: points between lines, along an axis.

    Returns:
        Ends in data coordinates, shape (lines, 2 ends, 2); see `draw_lines`.
    """
    left, bottom, right, top = corners_in_points(ax, tiles)
    first = np.ceil((bottom - right) / spacing)  # line number k is y - x = k spacing
    count = np.maximum(np.floor((top - left) / spacing) - first + 1, 0).astype(int)
    of = np.repeat(np.arange(len(tiles)), count)
    within = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    offset = (first[of] + within) * spacing
    start = np.maximum(left[of], bottom[of] - offset)
    end = np.minimum(right[of], top[of] - offset)
    ends = np.stack([[start, start + offset], [end, end + offset]])  # ends, xy, lines
    pixels = ends.transpose(2, 0, 1).reshape(-1, 2) * ax.figure.dpi / 72
    return ax.transData.inverted().transform(pixels).reshape(-1, 2, 2)
