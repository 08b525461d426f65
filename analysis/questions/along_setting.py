"""Accuracy along a setting: what do the tasks' frequencies, weight decay or another number change?

At each grid point where a numeric setting takes three or more values and nothing else differs but
the seed: accuracy at the last positions on seen and unseen tasks and, where it was measured, in
weights and in context (Chan et al. 2022, arXiv 2205.05055, figures 3 and 5, draw Zipf's exponent
and burstiness so). Means over seeds, with Student's t interval.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases, settings
from metaphase.analysis.statistics.intervals import CONFIDENCE, t_half_width
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Accuracy at the last positions along a setting: dots are seeds, lines their means, bars "
    f"{CONFIDENCE:.0%} t intervals over seeds."
)
FEWEST_VALUES = 3
MOST_PANELS = 12  # of a figure; the table has all
_SPLITS = {
    schema.SEEN: "seen tasks",
    schema.UNSEEN: "unseen tasks",
    schema.IN_WEIGHTS: "in weights",
    schema.IN_CONTEXT: "in context",
}
_WIDE = 20.0  # times the least value that the greatest is where an axis is logarithmic


def find(classified: pd.DataFrame, history: pd.DataFrame) -> Iterator[Answer]:
    """An answer if some setting takes several values at a grid point."""
    names = _numeric(classified)
    if not names:
        return
    rows = seed_table(classified, history, names)
    if rows.empty:
        return
    title = labels.title(classified, {})
    yield Answer(
        "along_settings", describe(rows, title), summarize(rows),
        functools.partial(figure, rows, title), CAPTION,
    )  # fmt: skip


def _numeric(cells: pd.DataFrame) -> list[str]:
    """Settings that vary and are numbers."""
    return [
        name
        for name in settings.varying_settings(cells)
        if pd.api.types.is_numeric_dtype(cells[name])
        and not pd.api.types.is_bool_dtype(cells[name])
        and cells[name].nunique() >= FEWEST_VALUES
    ]


def seed_table(cells: pd.DataFrame, history: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Accuracies of finished cells along each of these settings.

    Args:
        cells: from `analysis.statistics.phases.classify`, all conditions.
        history: from `analysis.load.load_history`.
        names: of numeric settings.

    Returns:
        A row for each setting, grid point, value, split and seed: `setting`, `point` (what tells
        the grid point from others, in words), `value`, `split`, `seed`, `accuracy` (last positions,
        last evaluation), `level` (what is reached there without looking at inputs).
    """
    last = history[history["step"] == history.groupby("cell_id")["step"].transform("max")]
    last = last[last["split"].isin(_SPLITS)].dropna(subset=[schema.LAST])
    last = last[["cell_id", "split", schema.LAST]].rename(columns={schema.LAST: "accuracy"})
    done = cells[cells["status"] == schema.DONE]
    usual = {k: done[k].mode(dropna=False).iloc[0] for k in settings.varying_settings(done)}
    found = []
    for name in names:
        for condition, group in settings.equal_groups(done, settings.GRID, besides=[name]):
            if group[name].nunique() < FEWEST_VALUES:
                continue
            told = {k: v for k, v in condition.items() if k in settings.GRID or v != usual.get(k)}
            rows = group[["cell_id", "seed"]].assign(
                setting=name, point=_point(told), value=group[name].astype(float),
                level=phases.level_of_split(group, schema.UNSEEN),
            )  # fmt: skip
            found.append(rows.merge(last, on="cell_id").drop(columns="cell_id"))
    columns = ["setting", "point", "value", "split", "seed", "accuracy", "level"]
    table = pd.concat(found) if found else pd.DataFrame(columns=columns)
    return table[columns].dropna(subset=["value"]).sort_values(columns[:5], ignore_index=True)


def _point(condition: dict[str, object]) -> str:
    """A grid point as titles show it: model size 32, 2^14 tasks, label_noise=0.2."""
    told = dict(condition)
    words = []
    if "model_size" in told:
        words.append(f"model size {labels.short_number(told.pop('model_size'))}")
    if "num_tasks" in told:
        words.append(f"{labels.power_of_two(told.pop('num_tasks'))} tasks")
    return ", ".join([*words, *labels.condition_words(told)])


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds.

    Args:
        rows: from `seed_table`.

    Returns:
        setting, point, value, split, `accuracy`, the ends `low` and `high` of its 95% t interval
        (NaN with one seed), `seeds`.
    """
    groups = rows.groupby(["setting", "point", "value", "split"])["accuracy"]
    table = groups.agg(accuracy="mean", deviation="std", seeds="count").reset_index()
    half = t_half_width(table.pop("deviation").to_numpy(dtype=float), table["seeds"].to_numpy())
    table.insert(5, "low", table["accuracy"] - half)
    table.insert(6, "high", table["accuracy"] + half)
    return table


def describe(rows: pd.DataFrame, title: str) -> str:
    """A line a setting, grid point and split: the mean at each value."""
    lines = [f"{title}: accuracy at the last positions along settings (means over seeds)"]
    for (name, point), group in summarize(rows).groupby(["setting", "point"]):
        values = sorted(group["value"].unique())
        lines.append(f"  {name}, {point}" if point else f"  {name}")
        lines.append(" " * 20 + "".join(f"{labels.number(v):>9}" for v in values))
        for split, told in _SPLITS.items():
            means = group[group["split"] == split].set_index("value")["accuracy"]
            if len(means):
                texts = (f"{means[v]:.3f}" if v in means else "." for v in values)
                lines.append(f"    {told:16}" + "".join(f"{text:>9}" for text in texts))
    return "\n".join(lines)


def draw(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One setting at one grid point: for each split a dot a seed, and a line through the means.

    Args:
        rows: of one `setting` and `point`, from `seed_table`.
        ax: where to draw.
    """
    from matplotlib.ticker import MaxNLocator

    from metaphase.analysis.figures import axes, style

    unit, values = style.scale(), np.sort(rows["value"].unique())
    logarithmic = bool(values[0] > 0 and values[-1] > _WIDE * values[0])
    style.draw_chance(ax, rows.groupby("value")["level"].mean())
    means = summarize(rows)
    for split, look in _looks().items():
        own, mean = rows[rows["split"] == split], means[means["split"] == split]
        ax.plot(own["value"], own["accuracy"], ls="", marker=look["marker"], ms=2.4 * unit, mew=0,
                alpha=0.6, color=look["color"])  # fmt: skip
        ax.plot(mean["value"], mean["accuracy"], color=look["color"], ls=look["ls"], lw=unit)
        ax.vlines(mean["value"], mean["low"].clip(0), mean["high"].clip(upper=1),
                  color=look["color"], lw=0.6 * unit)  # fmt: skip
    if logarithmic:
        axes.log_ticks(ax, "x")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(ylim=(0, 1), ylabel="accuracy", xlabel=str(rows["setting"].iloc[0]).replace("_", " "))
    return ax


def _looks() -> dict[str, dict[str, Any]]:
    from metaphase.analysis.figures import style

    return {
        schema.SEEN: {"color": style.RED, "marker": "s", "ls": (0, (3, 1.2))},
        schema.UNSEEN: {"color": style.BLUE, "marker": "o", "ls": "-"},
        schema.IN_WEIGHTS: {"color": "#b35c00", "marker": "D", "ls": (0, (1, 1))},
        schema.IN_CONTEXT: {"color": "#00705a", "marker": "^", "ls": (0, (4, 1, 1, 1))},
    }


def figure(rows: pd.DataFrame, title: str = "") -> Figure:
    """A panel for each setting and grid point, at most `MOST_PANELS` of them."""
    from matplotlib.lines import Line2D

    from metaphase.analysis.figures import panels, style

    groups = list(rows.groupby(["setting", "point"], sort=False))
    shown = groups[:MOST_PANELS]
    unit = style.scale()
    looks = {split: look for split, look in _looks().items() if (rows["split"] == split).any()}
    left_out = len(groups) - len(shown)
    notes = [f"dots: seeds, lines: their means, bars: {CONFIDENCE:.0%} t intervals over seeds"]
    notes += [f"{left_out} further grid points are in along_settings.csv"] if left_out else []
    whole = panels.Panels(
        panels.facets(len(shown), 1.9), 1.9 if len(shown) == 1 else 1.3, title, notes,
        [*(_SPLITS[split] for split in looks), "chance"], between=(0.3, 0.75), below=0.42,
        width=3.6 if len(shown) == 1 else None,
    )  # fmt: skip
    for ax, ((_, point), group) in zip(whole.axes, shown, strict=True):
        draw(group, ax)
        ax.set_title(style.wrap(str(point), whole.width))
    for row in whole.rows:
        for ax in row[1:]:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    handles = [
        Line2D([], [], color=k["color"], marker=k["marker"], ls=k["ls"], lw=unit, mew=0,
               ms=2.4 * unit)
        for k in looks.values()
    ]  # fmt: skip
    whole.legend([*handles, Line2D([], [], color="#555555", lw=0.8 * unit, ls=":")])
    return whole.figure
