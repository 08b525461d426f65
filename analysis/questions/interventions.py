"""Interventions: what shortens the plateau that the training loss starts on?

Batch size, bias of the tasks, Adam's epsilon and the learning rate are changed one at a time.
Cells that had not left the plateau when training ended are right-censored: a median counts them as
later than all others. Differences to the commonest value are paired over seeds, with Student's t
interval; where a cell of a pair is censored its difference is unknown, so only how many seeds were
later and earlier is told. Asked where one of these takes several values.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import settings
from metaphase.analysis.statistics.intervals import CONFIDENCE, t_half_width
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Steps until the training loss left its plateau: a dot a seed, lines join equal seeds, bars "
    "are medians; triangles had not left it when training ended."
)
FACTORS = ("batch_size", "identity_share", "adam_epsilon", "learning_rate")


def find(classified: pd.DataFrame) -> Iterator[Answer]:
    """An answer for each grid point where a factor takes several values."""
    if "plateau_steps" not in classified or not set(FACTORS) <= set(classified):
        return
    by = [name for name in settings.GRID if name in classified]
    factors = [name for name in (*FACTORS, "identity_steps") if name in classified]
    values = classified.groupby(by, dropna=False)[factors].nunique(dropna=False)
    if (values == 1).all(axis=None):  # no grid point of most sweeps has any to compare
        return
    for condition, group in settings.equal_groups(classified, by, besides=factors):
        table = plateau_table(group)
        if table.empty or table["steps"].isna().all():
            continue
        title = labels.title(classified, condition)
        summary = summarize(table)
        yield Answer(
            f"interventions{labels.file_suffix(condition)}", describe(summary, title), summary,
            functools.partial(figure, table, title), CAPTION,
        )  # fmt: skip


def plateau_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Steps until the plateau was left, one factor changed at a time.

    Args:
        cells: of one architecture, model size, number of tasks and further settings. A factor's
            base is its commonest value; of equally common ones, the first. The bias of the tasks
            (identity_share) is one factor with the steps over which it falls.

    Returns:
        A row for each factor that varies, value and seed: `factor`, `value` (text), `order` (of
        the values), `base` (whether it is), `seed`, `steps` (NaN: not left), `limit` (steps it was
        trained). Cells that diverged or failed are left out.
    """
    done = cells[cells["status"] == schema.DONE]
    trained = done.get("steps_trained", done["steps"]).fillna(done["steps"])
    biases = zip(done["identity_share"], done.get("identity_steps", done["seed"] * 0), strict=True)
    values: dict[str, list[Any]] = {
        name: list(biases) if name == "identity_share" else done[name].to_list() for name in FACTORS
    }
    base = {name: max(sorted(set(v)), key=v.count) for name, v in values.items() if v}
    rows = []
    for name in base:
        order = {value: i for i, value in enumerate(sorted(set(values[name])))}
        others = [k for k in base if k != name]
        for i in range(len(done)):
            if len(order) > 1 and all(values[k][i] == base[k] for k in others):
                value, cell = values[name][i], done.iloc[i]
                rows.append(
                    (name, _value_text(value), order[value], value == base[name], int(cell["seed"]),
                     float(cell["plateau_steps"]), float(trained.iloc[i]))
                )  # fmt: skip
    columns = ["factor", "value", "order", "base", "seed", "steps", "limit"]
    table = pd.DataFrame(rows, columns=columns)
    several = table.groupby("factor")["value"].transform("nunique") > 1
    return table[several].sort_values(["factor", "order", "seed"]).reset_index(drop=True)


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        share, steps = value
        return f"{share:g}" + (f" to 0 in {steps:g}" if steps else "")
    return f"{value:g}"


def summarize(table: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Each value's median and its difference to the base, paired over seeds.

    Args:
        table: from `plateau_table`.
        confidence: of the differences' intervals.

    Returns:
        factor, value, base, `seeds`, `not_left` (of these), `median` (inf: later than the end),
        `pairs` (seeds that also ran at the base value), `later` and `earlier` (of these),
        `difference` in steps with its interval `low`, `high` (NaN: a pair has a censored cell, or
        there are fewer than 2).
    """
    rows = []
    for (name, _order), group in table.groupby(["factor", "order"]):
        of_base = table[(table["factor"] == name) & table["base"]].set_index("seed")["steps"]
        own = group.set_index("seed")["steps"].fillna(np.inf)
        shared = own.index.intersection(of_base.index)
        pairs = pd.DataFrame({"own": own, "base": of_base.fillna(np.inf)}).loc[shared]
        is_base = bool(group["base"].iloc[0])
        mean = low = high = np.nan
        if len(pairs) > 1 and np.isfinite(pairs.to_numpy()).all() and not is_base:
            differences = (pairs["own"] - pairs["base"]).to_numpy()
            mean = float(differences.mean())
            half = float(t_half_width(differences.std(ddof=1), len(differences), confidence))
            low, high = mean - half, mean + half
        rows.append(
            (name, group["value"].iloc[0], is_base, len(own), int(np.isinf(own).sum()),
             _median(own.to_numpy()), float(group["limit"].max()), len(pairs),
             int((pairs["own"] > pairs["base"]).sum()), int((pairs["own"] < pairs["base"]).sum()),
             mean, low, high)
        )  # fmt: skip
    columns = ["factor", "value", "base", "seeds", "not_left", "median", "limit", "pairs"]
    return pd.DataFrame(rows, columns=[*columns, "later", "earlier", "difference", "low", "high"])


def _median(steps: np.ndarray) -> float:
    """The median of steps of which some are infinite; infinite where half of a middle pair is."""
    ordered = np.sort(steps)
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]
    return float(middle.mean()) if np.isfinite(middle).all() else np.inf


def describe(summary: pd.DataFrame, title: str) -> str:
    """A line a value, from `summarize`."""
    lines = [
        f"{title}: steps until the training loss left its plateau",
        f"  {'':20}{'median':>10}{'not left':>12}   minus base, paired over seeds "
        f"({CONFIDENCE:.0%} interval)",
    ]
    for name, rows in summary.groupby("factor", sort=False):
        lines.append(f"  {name}")
        for row in rows.to_dict("records"):
            finite = np.isfinite(row["median"])
            median = f"{row['median']:.0f}" if finite else f"> {row['limit']:.0f}"
            not_left = f"{row['not_left']} of {row['seeds']}"
            lines.append(f"    {row['value']:18}{median:>10}{not_left:>12}   {_paired_text(row)}")
    return "\n".join(lines)


def _paired_text(row: dict[Hashable, Any]) -> str:
    if row["base"]:
        return "(base)"
    signs = f"later in {row['later']}, earlier in {row['earlier']} of {row['pairs']} seeds"
    if np.isfinite(row["difference"]):
        return f"{row['difference']:+.0f} ({row['low']:+.0f} to {row['high']:+.0f}); {signs}"
    return signs if row["pairs"] else "no seed in common"


_LEFT, _NOT_LEFT = "a seed", "not left when training ended"


def draw(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One factor of `plateau_table`: a symbol a seed, a bar at each median."""
    import seaborn as sns

    from metaphase.analysis.figures import style

    unit = style.scale()
    values = rows.drop_duplicates("order").sort_values("order")
    places = {order: i for i, order in enumerate(values["order"])}
    shown = rows.assign(
        place=rows["order"].map(places) + rows["seed"].map(style.seed_shifts(rows["seed"], 0.15)),
        until=rows["steps"].fillna(rows["limit"]),
        left=np.where(rows["steps"].notna(), _LEFT, _NOT_LEFT),
    )
    at: dict[str, Any] = {"data": shown, "x": "place", "y": "until", "ax": ax}
    sns.lineplot(**at, units="seed", estimator=None, color="#bbbbbb", lw=0.5 * unit, zorder=1)
    colors, markers = {_LEFT: style.BLUE, _NOT_LEFT: style.RED}, {_LEFT: "o", _NOT_LEFT: "^"}
    by: dict[str, Any] = {"hue": "left", "style": "left", "palette": colors, "markers": markers}
    sns.scatterplot(**at, **by, s=14 * unit**2, linewidth=0, zorder=2, legend=False)
    for i, median in enumerate(summarize(rows)["median"]):
        if np.isfinite(median):
            ax.hlines(median, i - 0.3, i + 0.3, color="black", lw=1.4 * unit, zorder=3)
    names = [
        f"{v}\n(base)" if b else v.replace(" to ", "\nto ")
        for v, b in zip(values["value"], values["base"], strict=True)
    ]
    ax.set_xticks(range(len(places)), names)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_xlabel(str(rows["factor"].iloc[0]).replace("_", " "))
    return ax


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A panel a factor."""
    from matplotlib.lines import Line2D

    from metaphase.analysis.figures import axes, panels, style

    factors = list(dict.fromkeys(table["factor"]))
    most = max(table.loc[table["factor"] == name, "order"].nunique() for name in factors)
    late = bool(table["steps"].isna().any())
    names = [_LEFT, *([_NOT_LEFT] if late else []), "median"]
    whole = panels.Panels(
        panels.facets(len(factors), max(1.4, 0.42 * most)), 1.9, title,
        ["grey lines join equal seeds"], names, between=(0.14, 0.75), below=0.55, heads=False,
    )  # fmt: skip
    until = table["steps"].fillna(table["limit"])
    for ax, name in zip(whole.axes, factors, strict=True):
        draw(table[table["factor"] == name], ax)
        axes.log_ticks(ax, "y")
        ax.set_ylim(until.min() / 1.15, until.max() * 1.15)
        ax.set_ylabel("steps until the plateau is left")
    for row in whole.rows:
        for ax in row[1:]:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    unit = style.scale()
    symbol: dict[str, Any] = {"ls": "", "mew": 0, "ms": 4 * unit}
    handles = [Line2D([], [], marker="o", color=style.BLUE, **symbol)]
    if late:
        handles.append(Line2D([], [], marker="^", color=style.RED, **symbol))
    whole.legend([*handles, Line2D([], [], color="black", lw=1.4 * unit)])
    return whole.figure
