"""How figures look: colours of the phases, log2 axes, tiles. Readable without colour vision.

The phases' colours differ in hue for every kind of colour vision and fall in lightness with
capability, so they stay apart in a grey print; tiles carry the phase's letter too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from metaphase.analysis.statistics.phases import GENERALIZING, IDENTIFYING, MEMORIZING, UNTRAINED

COLORS = {
    UNTRAINED: "#ebebeb",
    MEMORIZING: "#f5b942",  # near Okabe & Ito's orange, lighter
    IDENTIFYING: "#3a86c4",  # near their blue
    GENERALIZING: "#0f2f52",
}
LETTERS = {UNTRAINED: "U", MEMORIZING: "M", IDENTIFYING: "I", GENERALIZING: "G"}
UNFINISHED_LETTER = "×"  # diverged or failed
INK = {UNTRAINED: "#555555", MEMORIZING: "black", IDENTIFYING: "white", GENERALIZING: "white"}

ACCURACY_MAP = mpl.colormaps["viridis"]
SEQUENTIAL_MAP = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.88, 256)))  # lines
MOST_LINES = 6  # that can be told apart in one panel

NUM_TASKS_LABEL = "number of tasks"
MODEL_SIZE_LABEL = "model size"

ABBREVIATIONS = {"lstm": "LSTM", "mlp": "MLP"}

RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "metaphase",  # the same figure is the same file
}


def power_of_two(value: float) -> str:
    """16 -> "2^4" as math text; a number that is no power of two as it is."""
    exponent = np.log2(value)
    return f"$2^{{{int(exponent)}}}$" if exponent == int(exponent) else f"{value:g}"


def wrap(title: str, inches: float) -> str:
    """The title in lines that fit, at size 8."""
    return textwrap.fill(title, int(13.5 * inches), break_on_hyphens=False)


def title_above(figure: Figure, title: str) -> None:
    """A title above all panels, in as many lines as it needs."""
    figure.suptitle(wrap(title, figure.get_figwidth()), size=8)


def log_ticks(ax: Axes, low: float, high: float) -> None:
    """A log10 x-axis with few labels: 200, 1k, 50k, 2M. `low` and `high`: of what is drawn."""
    ax.set_xscale("log")
    factors = (1,) if high > 100 * low else (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 5, 7)
    ax.xaxis.set_major_locator(LogLocator(10, factors))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())


def log2_ticks(ax: Axes, which: str, values: Iterable[float], most: int = 14) -> None:
    """Ticks at log2 of (some of) the values, labelled 2^k. `which` is "x" or "y"."""
    values = np.unique(np.asarray(list(values), dtype=float))
    values = values[:: -(-len(values) // most)]
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(list(np.log2(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([power_of_two(v) for v in values])


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


def spread(values: Iterable[float], most: int = MOST_LINES) -> list[float]:
    """At most this many of the values, evenly spread, the smallest and the largest included."""
    ordered = np.unique(np.asarray(list(values), dtype=float))
    if len(ordered) <= most:
        return [float(v) for v in ordered]
    return [float(v) for v in ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)]]


def sequence_colors(values: Sequence[float], cmap: Colormap = SEQUENTIAL_MAP) -> dict:
    """A colour for each value, dark to light in their order."""
    return dict(zip(values, cmap(np.linspace(0, 1, max(len(values), 2))), strict=False))


def architecture_label(architecture: str) -> str:
    """As it is written in a figure."""
    return ABBREVIATIONS.get(architecture, architecture.replace("_", " "))
