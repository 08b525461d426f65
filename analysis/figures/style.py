"""How figures look: widths, fonts, colours of the phases, titles. Axes are in `axes`.

A figure is drawn in `context`, which begins with matplotlib's own defaults: neither a user's
matplotlibrc nor what a caller has set has an influence, and a caller's settings stay as they are.
The context's `figure.figsize` says how wide figures are; makers of figures ask `room` and `figure`.
All lengths in this package are in the measures of a page with a font of 8 points; `scale` takes
them to the font at hand.

Figures are readable without colour vision: the phases' colours differ in hue for every kind of it
and fall in lightness with capability, so they stay apart in a grey print.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch

from metaphase.analysis.statistics import phases
from metaphase.core.phases import GENERALIZING, IDENTIFYING, MEMORIZING, UNTRAINED

# Inches of a figure, and points of its text: a column and a page in print, a slide on a wall.
WIDTHS = {"column": (3.3, 7.5), "page": (7.0, 8.0), "slide": (10.0, 14.0)}
_TALLEST = {"column": 4.4, "page": 4.5, "slide": 5.6}  # inches, of maps
SMALLEST = 7.0  # points, of any text

COLORS = {
    UNTRAINED: "#f1f1f1",
    MEMORIZING: "#f5b942",  # near Okabe & Ito's orange, lighter
    IDENTIFYING: "#56a0d8",  # near their sky blue
    GENERALIZING: "#3d2266",
}
# Generalizing by how well: from chance on unseen tasks to no error.
GENERALIZING_MAP = LinearSegmentedColormap.from_list(
    GENERALIZING, ["#8a5fb8", "#5b3691", "#2e1658", "#12062a"]
)
INK = {UNTRAINED: "#555555", MEMORIZING: "black", IDENTIFYING: "black", GENERALIZING: "white"}
BLUE, RED = "#2f7fc1", "#b00020"  # of single symbols; red: diverged, failed or not reached
GREY = "#9a9a9a"  # frames of what has no result

ACCURACY_MAP = mpl.colormaps["viridis"]
DIFFERENCE_MAP = mpl.colormaps["cividis"]  # its lightness rises all along: signs survive in grey
SEQUENTIAL_MAP = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.88, 256)))  # lines

NUM_TASKS_LABEL = "number of tasks"
MODEL_SIZE_LABEL = "model size"

ABBREVIATIONS = {"lstm": "LSTM", "mlp": "MLP"}

_NOT_LOOKS = ("backend", "interactive", "toolbar", "timezone")  # settings that are a session's


def _settings(inches: float, tallest: float, points: float) -> dict[Any, Any]:
    """matplotlib's settings for figures of this width and size of text."""
    small, unit = max(SMALLEST, 0.9 * points), points / 8
    return {
        "font.size": points,
        "figure.figsize": (inches, tallest),
        "axes.titlesize": points,
        "axes.labelsize": points,
        "axes.titlepad": 4 * unit,
        "axes.titley": 1.0,  # no search for a place above what is there
        "axes.labelpad": 2.5 * unit,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.title_fontsize": small,
        "axes.linewidth": 0.6 * unit,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **{f"{which}tick.major.width": 0.6 * unit for which in "xy"},
        **{f"{which}tick.major.size": 2.5 * unit for which in "xy"},
        **{f"{which}tick.major.pad": 2.5 * unit for which in "xy"},
        "lines.linewidth": 1.2 * unit,
        "lines.markersize": 3 * unit,
        "hatch.linewidth": 0.6 * unit,
        "legend.frameon": False,
        "figure.constrained_layout.h_pad": 0.03 * unit,
        "figure.constrained_layout.w_pad": 0.03 * unit,
        "figure.dpi": 100,
        "savefig.dpi": 220,
        "pdf.fonttype": 42,  # TrueType, embedded: text stays text
        "svg.fonttype": "path",  # glyphs are in the file: it looks the same where no font is
        "svg.hashsalt": "metaphase",  # the same figure is the same file
    }


@contextlib.contextmanager
def context(width: str = "page") -> Iterator[None]:
    """Within it figures are made, and saved, in this package's style.

    Args:
        width: one of `WIDTHS`.
    """
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if k not in _NOT_LOOKS}
    inches, points = WIDTHS[width]
    with mpl.rc_context({**defaults, **_settings(inches, _TALLEST[width], points)}):
        yield


def scale() -> float:
    """What lengths and points are multiplied with, given the font at hand."""
    return mpl.rcParams["font.size"] / 8


def room() -> float:
    """Inches that figures are wide, as they would be with a font of 8 points."""
    return mpl.rcParams["figure.figsize"][0] / scale()


def tallest() -> float:
    """Inches, as `room` counts them, that a map is high at most, legend and all."""
    return mpl.rcParams["figure.figsize"][1] / scale()


def figure(height: float, **options: Any) -> Figure:
    """An empty figure of the context's width.

    Args:
        height: inches with a font of 8 points.
        options: of matplotlib's Figure.
    """
    return Figure(figsize=(mpl.rcParams["figure.figsize"][0], height * scale()), **options)


def small() -> float:
    """Points of the smallest text in a figure."""
    return points("legend.fontsize")


def points(setting: str) -> float:
    """One of matplotlib's settings of font sizes in points."""
    settings: Any = mpl.rcParams
    return FontProperties(size=settings[setting]).get_size_in_points()


def wrap(title: str, inches: float) -> str:
    """The title in lines that fit, `inches` as `room` counts them."""
    return textwrap.fill(title, max(12, int(13.5 * inches)), break_on_hyphens=False)


def level(classified: pd.DataFrame, split: str) -> float:
    """The accuracy at the last positions that needs no inputs: on seen tasks always naming the
    commonest class, on new ones, whose labels are permuted, the commonest label so far.

    Args:
        classified: as from `analysis.statistics.phases.classify`.
        split: of `core.schema`.
    """
    return float(phases.level_of_split(classified, split).mean())


def draw_chance(ax: Axes, chance: float | pd.Series) -> None:
    """A dotted line at the accuracy without looking at inputs, from `level`; where it differs
    along x, by the places on x."""
    look: dict[str, Any] = {"color": "#555555", "lw": 0.8 * scale(), "ls": ":", "label": "chance"}
    if isinstance(chance, float):
        ax.axhline(chance, **look)
    elif chance.nunique() == 1:
        ax.axhline(chance.iloc[0], **look)
    else:
        ax.plot(chance.index, chance, **look)


def phase_patch(phase: str, alpha: float | None = None) -> Patch:
    """A legend's patch in a phase's colour, framed where the page would hide it."""
    frame: dict[str, Any] = {}
    if phase == UNTRAINED:
        frame = {"edgecolor": GREY, "lw": 0.5 * scale()}
    return Patch(facecolor=to_rgba(COLORS[phase], alpha), **frame)


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
