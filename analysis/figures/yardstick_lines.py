"""Lines of known learning algorithms in panels of learning curves, with their names beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import transforms
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaphase.analysis.statistics.yardsticks import NAMES

# Told apart by dashes and symbols in black and white, and by colours that no learning curve has.
LOOKS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"color": "#000000", "ls": (0, (5, 1.5)), "marker": "o"},
    "ridge": {"color": "#7f3b08", "ls": (0, (1, 1)), "marker": "s"},
    "logistic": {"color": "#c44e00", "ls": (0, (3, 1, 1, 1)), "marker": "^"},
    "mlp": {"color": "#cc79a7", "ls": (0, (8, 1.5, 1, 1.5)), "marker": "D"},
}
_SYMBOL: dict[str, Any] = {"lw": 0.9, "ms": 3.5, "mfc": "white", "mew": 0.8}
_LABEL_HEIGHT = 0.105  # share of the axis that a label at a line's end needs


def draw(table: pd.DataFrame, ax: Axes) -> list[Line2D]:
    """Lines from `analysis.statistics.yardsticks.curves_table`, each with its dashes and symbols;
    chance is left out.

    Returns:
        The lines, labelled.
    """
    lines: list[Line2D] = []
    for i, (name, look) in enumerate(LOOKS.items()):
        rows = table[table["yardstick"] == name].sort_values("examples_seen")
        if len(rows):
            lines += ax.plot(
                rows["examples_seen"], rows["accuracy"], **look, **_SYMBOL, zorder=2.5,
                label=NAMES[name], markevery=(i, len(LOOKS)),  # symbols side by side where equal
            )  # fmt: skip
    return lines


def label_ends(lines: list[Line2D], ax: Axes) -> None:
    """Names of lines from `draw` right of the panel, as near to their ends as they fit."""
    looks = {NAMES[name]: look for name, look in LOOKS.items()}
    xy = {line: np.asarray(line.get_xydata(), dtype=float)[-1] for line in lines}
    lines = sorted(lines, key=lambda line: xy[line][1])
    ends = np.array([xy[line][1] for line in lines])
    points = transforms.Affine2D().scale(1 / 72) + ax.figure.dpi_scale_trans
    right_of_panel = points + transforms.ScaledTranslation(
        1, 0, transforms.BboxTransformTo(ax.bbox)
    )
    beside = transforms.blended_transform_factory(right_of_panel, ax.transData)
    for line, y in zip(lines, spread_out(ends, _LABEL_HEIGHT, 0.03, 0.97), strict=True):
        leader = {"arrowstyle": "-", "lw": 0.4, "color": line.get_color(), "shrinkA": 0}
        ax.annotate("", tuple(xy[line]), (10, y), textcoords=beside, arrowprops=leader)
        ax.plot([10, 20, 30], [y] * 3, transform=beside, clip_on=False, markevery=[1],
                **looks[str(line.get_label())], **_SYMBOL)  # fmt: skip
        ax.text(34, y, str(line.get_label()), transform=beside, size=7, va="center")


def spread_out(values: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The places nearest to ascending values (least squares) with a gap between neighbours.

    Args:
        values: ascending, shape (n,).
        gap: least distance of neighbours.
        low, high: bounds of all, at least (n - 1) gaps apart.
    """
    from scipy import optimize  # here, as it is slow to import and seldom needed

    steps = gap * np.arange(len(values))
    return optimize.isotonic_regression(values - steps).x.clip(low, high - steps[-1:]) + steps
