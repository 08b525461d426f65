"""How figures look: colours of the phases, fonts, logarithmic axes, titles.

Figures are readable without colour vision: the phases' colours differ in hue for every kind of it
and fall in lightness with capability, so they stay apart in a grey print; tiles carry the phase's
letter too.
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

from metaphase.analysis import labels
from metaphase.core.phases import GENERALIZING, IDENTIFYING, MEMORIZING, UNTRAINED

COLORS = {
    UNTRAINED: "#ebebeb",
    MEMORIZING: "#f5b942",  # near Okabe & Ito's orange, lighter
    IDENTIFYING: "#3a86c4",  # near their blue
    GENERALIZING: "#0f2f52",
}
UNFINISHED_LETTER = "×"  # diverged or failed
BLUE, RED = "#3a86c4", "#b00020"  # of single symbols; red: diverged, failed or not reached
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
    """16 -> 2^4 as math text; a number that is no power of two as it is."""
    exponent = labels.exponent_of_two(value)
    return f"{value:g}" if exponent is None else f"$2^{{{exponent}}}$"


def wrap(title: str, inches: float) -> str:
    """The title in lines that fit, at size 8."""
    return textwrap.fill(title, int(13.5 * inches), break_on_hyphens=False)


def title_above(figure: Figure, title: str) -> None:
    """A title above all panels, in as many lines as it needs."""
    figure.suptitle(wrap(title, figure.get_figwidth()), size=8)


def draw_chance(ax: Axes, chance: float) -> None:
    """A dotted line at the accuracy of always guessing the commonest class."""
    ax.axhline(chance, color="#555555", lw=0.8, ls=":", label="chance")


def log_ticks(ax: Axes, which: str, low: float, high: float) -> None:
    """A log10 axis with few labels: 200, 1k, 50k, 2M.

    Args:
        ax: whose axis.
        which: "x" or "y".
        low, high: of what is drawn.
    """
    ax.set(**{f"{which}scale": "log"})
    factors = (1,) if high > 100 * low else (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 5, 7)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(10, factors))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def log2_ticks(ax: Axes, which: str, values: Iterable[float], most: int = 14) -> None:
    """Ticks at log2 of (some of) the values, labelled 2^k. `which` is "x" or "y"."""
    values = np.unique(np.asarray(list(values), dtype=float))
    values = values[:: -(-len(values) // most)]
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(list(np.log2(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([power_of_two(v) for v in values])


def spread(values: Iterable[float], most: int = MOST_LINES) -> list[float]:
    """At most this many of the values, evenly spread, the smallest and the largest included."""
    ordered = np.unique(np.asarray(list(values), dtype=float))
    if len(ordered) <= most:
        return [float(v) for v in ordered]
    return [float(v) for v in ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)]]


def seed_shifts(seeds: Iterable[int], width: float) -> dict[int, float]:
    """How far beside its group's place each seed stands, up to `width` to the left and right.

    A seed has the same shift in every group, so that it can be followed from one to the next.
    """
    ordered = sorted(set(seeds))
    shifts = np.linspace(-width, width, len(ordered)) if len(ordered) > 1 else np.zeros(1)
    return dict(zip(ordered, shifts.tolist(), strict=True))


def sequence_colors(
    values: Sequence[float], cmap: Colormap = SEQUENTIAL_MAP
) -> dict[float, np.ndarray]:
    """A colour for each value, dark to light in their order."""
    return dict(zip(values, cmap(np.linspace(0, 1, max(len(values), 2))), strict=False))


def architecture_label(architecture: str) -> str:
    """As it is written in a figure."""
    return ABBREVIATIONS.get(architecture, architecture.replace("_", " "))
