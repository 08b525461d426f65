"""What became of a cell, as maps show it: its phase, or why it has none.

An outcome is a phase of `core.phases`, or one of the words below. Each has a colour; those that are
no phase have a symbol too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from metaphase.analysis import labels
from metaphase.analysis.figures import style, tiles
from metaphase.core import schema
from metaphase.core.phase_rules import NO_PHASE
from metaphase.core.phases import GENERALIZING, ON_PLATEAU, PHASES
from metaphase.core.predictor_phases import REASONS

MISSING = "no result yet"
UNTRAINED_POINT = "not trained: what is expected"  # of a search
PLATEAU = ON_PLATEAU
DIVERGED, FAILED = schema.DIVERGED, schema.FAILED
# From the bottom of a tile to its top.
COINCIDE, TOO_FAR = REASONS.values()
ORDER = (
    *reversed(PHASES),
    COINCIDE,
    TOO_FAR,
    NO_PHASE,
    PLATEAU,
    DIVERGED,
    FAILED,
    MISSING,
    UNTRAINED_POINT,
)

_SYMBOLS: dict[str, dict[str, Any]] = {
    COINCIDE: {"marker": "$=$", "color": "#555555"},
    TOO_FAR: {"marker": "$\\approx$", "color": "#555555"},
    NO_PHASE: {"marker": ".", "color": "#555555"},
    PLATEAU: {"marker": "_", "color": "#555555"},
    DIVERGED: {"marker": "^", "color": style.RED},
    FAILED: {"marker": "x", "color": style.RED},
}
_FACES = dict.fromkeys((*_SYMBOLS, MISSING, UNTRAINED_POINT), "#ffffff")
UNDECIDED = "undecided"
_HATCH_SPACING = 4.0  # points
_SMALLEST_SYMBOL = 1.2  # points
_STRONGEST = 0.4  # opacity of what is expected for certain


def of_cells(classified: pd.DataFrame) -> pd.DataFrame:
    """Each cell's `outcome`, one of `ORDER`; `strength` (share of the way from the level of
    unseen tasks, which knows nothing of the inputs, to no error at their last positions, or, where
    phases are by predictor, from half-way between M and G to G; NaN where it isn't generalizing);
    and `decided`. Where M isn't computed it is the way from half-way between no context and G to G.

    Args:
        classified: as from `analysis.statistics.phases.classify`.

    Returns:
        The three columns, with the index of `classified`.
    """
    status = classified["status"]
    outcome = classified["phase"].astype(object).where(status == schema.DONE, status)
    outcome = outcome.mask(classified["on_plateau"].astype(bool), PLATEAU)
    for name in REASONS.keys() & set(classified):
        outcome = outcome.mask(outcome.isna() & classified[name].astype(bool), REASONS[name])
    outcome = outcome.mask(outcome.isna() & (status == schema.DONE), NO_PHASE).fillna(FAILED)
    level = classified["unseen_level"].astype(float)
    strength = (classified[f"{schema.UNSEEN}_{schema.LAST}"].astype(float) - level) / (1 - level)
    if "unseen_nearness" in classified:
        for name in ("unseen_departure", "unseen_nearness"):
            strength = classified[name].astype(float).fillna(strength)
    return pd.DataFrame(
        {
            "outcome": outcome,
            "strength": strength.clip(0, 1).where(outcome == GENERALIZING),
            "decided": classified["decided"].astype(bool) | ~outcome.isin(PHASES),
        }
    )


def stack(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Seeds one above the other in their tile, in `ORDER`, the best of those that generalize first,
    so that a tile shows the share of its seeds in each phase.

    Args:
        table: a row a seed, with its `outcome`, `strength`, and the whole tile's `bottom`, `top`.
        by: columns that name the tile.

    Returns:
        The table, ordered by tile and from bottom to top, with each seed's own `bottom` and `top`.
    """
    rank = table["outcome"].map({name: i for i, name in enumerate(ORDER)})
    table = table.assign(_rank=rank).sort_values(
        [*by, "_rank", "strength"], ascending=[*(True for _ in by), True, False], kind="stable"
    )
    groups = table.groupby(by, sort=False)
    at, of = groups.cumcount(), groups["outcome"].transform("size")
    height, bottom = (table["top"] - table["bottom"]) / of, table["bottom"]
    table = table.assign(bottom=bottom + at * height, top=bottom + (at + 1) * height)
    return table.drop(columns="_rank")


def colors(table: pd.DataFrame) -> np.ndarray:
    """The colour of each row's outcome, generalizing by its strength; shape (rows, 4)."""
    faces = {name: to_rgba(color) for name, color in {**style.COLORS, **_FACES}.items()}
    found = np.array([faces[name] for name in table["outcome"]]).reshape(-1, 4)
    graded = (table["outcome"] == GENERALIZING).to_numpy() & table["strength"].notna().to_numpy()
    found[graded] = style.GENERALIZING_MAP(table["strength"].to_numpy(dtype=float)[graded])
    return found


def draw(ax: Axes, table: pd.DataFrame) -> None:
    """Bands in the colours of their outcomes, hatched where undecided, with the symbols of those
    that have no phase. The axes must have their limits.

    Args:
        ax: where to draw.
        table: outcome, strength, decided, left, right, bottom, top.
    """
    fill = colors(table)
    tiles.add(
        ax, table, facecolors=fill, edgecolors=fill, linewidths=0.2, antialiaseds=False, zorder=1
    )
    _draw_expected(ax, table[table["outcome"] == UNTRAINED_POINT])
    undecided = table[~table["decided"]]
    for ink in ("white", "black"):
        rows = undecided[undecided["outcome"].map(_hatch_ink) == ink]
        lines = tiles.hatching(ax, rows, _HATCH_SPACING * style.scale())
        tiles.draw_lines(
            ax, lines, color=ink, lw=0.6 * style.scale(), alpha=0.8, zorder=1.2, gid=UNDECIDED
        )
    draw_symbols(ax, table)


def _draw_expected(ax: Axes, table: pd.DataFrame) -> None:
    """Untrained points in the colour of their expected phase, lighter the less it is certain (a
    third is as good as unknown), under thin white lines.

    Args:
        ax: where to draw.
        table: phase, share, left, right, bottom, top.
    """
    if table.empty:
        return
    certain = (table["share"].to_numpy(dtype=float) - 1 / 3).clip(0, 1) * 1.5
    fill = [
        to_rgba(style.COLORS[phase], _STRONGEST * share)
        for phase, share in zip(table["phase"], certain, strict=True)
    ]
    tiles.add(ax, table, facecolors=fill, linewidths=0, antialiaseds=False, zorder=1)
    lines = tiles.hatching(ax, table, 0.7 * _HATCH_SPACING * style.scale())
    tiles.draw_lines(ax, lines, color="white", lw=0.8 * style.scale(), zorder=1.1)


def draw_symbols(ax: Axes, table: pd.DataFrame) -> None:
    """The symbols of bands that have no phase, and the frames of those without a result.

    Args:
        ax: where to draw; it must have its limits.
        table: outcome, left, right, bottom, top.
    """
    dotted: dict[str, Any] = {"edgecolors": style.GREY, "linewidths": 0.6 * style.scale()}
    missing = table[table["outcome"] == MISSING]
    tiles.add(ax, missing, 0.05, facecolors="none", linestyles=":", zorder=1.2, **dotted)
    for name, look in _SYMBOLS.items():
        rows = table[table["outcome"] == name]
        if rows.empty:
            continue
        left, bottom, right, top = tiles.corners_in_points(ax, rows)
        size = np.minimum(right - left, top - bottom)
        size = size.clip(_SMALLEST_SYMBOL / 0.6, 12 * style.scale()) * 0.6
        middle = np.stack([left + right, bottom + top], axis=1) / 2 * ax.figure.dpi / 72
        x, y = ax.transData.inverted().transform(middle).T
        ax.scatter(
            x, y, s=size**2,
            linewidths=0.8 * style.scale() if name != DIVERGED else 0, zorder=1.5, **look,
        )  # fmt: skip


def _hatch_ink(outcome: str) -> str:
    return "white" if style.INK.get(outcome) == "white" else "black"


def legend_handles(table: pd.DataFrame, letters: bool) -> tuple[list[Any], list[str]]:
    """Handles and names of what a table from `of_cells` has, the most capable phase first.

    Args:
        table: outcome, decided.
        letters: whether the drawing has the phases' letters.
    """
    handles: list[Any] = []
    names: list[str] = []
    for name in reversed(PHASES):
        if not (table["outcome"] == name).any():
            continue
        if name == GENERALIZING:
            shades = style.GENERALIZING_MAP(np.linspace(0.1, 1, 4))
            handles.append(tuple(Patch(facecolor=shade) for shade in shades))
        else:
            handles.append(style.phase_patch(name))
        graded = ", darker: better" if name == GENERALIZING else ""
        names.append(f"{labels.LETTERS[name]}  {name}{graded}" if letters else f"{name}{graded}")
    if (~table["decided"]).any():
        names.append(UNDECIDED)
        handles.append(Patch(facecolor="#d8d8d8", edgecolor="black", hatch="//////", lw=0))
    more, more_names = symbol_handles(table)
    return [*handles, *more], [*names, *more_names]


def symbol_handles(table: pd.DataFrame) -> tuple[list[Any], list[str]]:
    """Handles and names of the outcomes in a table that are no phase."""
    handles: list[Any] = []
    others = (*_SYMBOLS, MISSING, UNTRAINED_POINT)
    names = [name for name in others if (table["outcome"] == name).any()]
    for name in names:
        if name == MISSING:
            handles.append(Patch(facecolor="white", edgecolor=style.GREY, ls=":"))
        elif name == UNTRAINED_POINT:
            colors = [to_rgba(style.COLORS[phase], _STRONGEST) for phase in reversed(PHASES[1:])]
            looks: dict[str, Any] = {"edgecolor": "white", "hatch": "//////", "lw": 0}
            handles.append(tuple(Patch(facecolor=color, **looks) for color in colors))
        else:
            handles.append(Line2D([], [], ls="", ms=4 * style.scale(), **_SYMBOLS[name]))
    return handles, names


HANDLERS = {tuple: HandlerTuple(ndivide=None, pad=0)}  # draws the shades of generalizing
