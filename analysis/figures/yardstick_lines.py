"""Lines of known learning algorithms in panels of learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaphase.analysis.figures import style
from metaphase.analysis.statistics.yardsticks import NAMES

# Told apart by dashes and symbols in black and white, and by colours that no learning curve has.
LOOKS: dict[str, dict[str, Any]] = {
    "nearest_neighbour": {"color": "#000000", "ls": (0, (5, 1.5)), "marker": "o"},
    "ridge": {"color": "#7f3b08", "ls": (0, (1, 1)), "marker": "s"},
    "logistic": {"color": "#c44e00", "ls": (0, (3, 1, 1, 1)), "marker": "^"},
    "mlp": {"color": "#cc79a7", "ls": (0, (8, 1.5, 1, 1.5)), "marker": "D"},
    "label_counts": {"color": "#000096", "ls": (0, (2, 2)), "marker": "v"},
    "bigram_counts": {"color": "#28c8f0", "ls": (0, (6, 1, 1, 1, 1, 1)), "marker": "P"},
}


def shown(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The yardsticks that `draw` draws of these tables, in the order of `LOOKS`."""
    there = {name for table in tables for name in table["yardstick"]}
    return [name for name in LOOKS if name in there]


def draw(table: pd.DataFrame, ax: Axes) -> None:
    """Lines from `analysis.statistics.yardsticks.curves_table`, each with its dashes and symbols;
    chance is left out."""
    for i, (name, look) in enumerate(LOOKS.items()):
        rows = table[table["yardstick"] == name].sort_values("examples_seen")
        if len(rows):
            every = max(len(LOOKS), len(rows) // 6)  # symbols side by side where lines are equal
            start = i * every // len(LOOKS)
            ax.plot(rows["examples_seen"], rows["accuracy"], **look, **_symbol(), zorder=2.5,
                    label=NAMES[name], markevery=(start, every))  # fmt: skip


def handles(names: Sequence[str]) -> list[Line2D]:
    """Of a legend, one for each name from `shown`."""
    return [Line2D([], [], **LOOKS[name], **_symbol()) for name in names]


def _symbol() -> dict[str, Any]:
    unit = style.scale()
    return {"lw": 0.9 * unit, "ms": 3 * unit, "mfc": "white", "mew": 0.7 * unit}
