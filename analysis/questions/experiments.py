"""Figures and tables across a whole sweep, for the questions it was made for.

- State size or parameter count: which one does accuracy on unseen tasks follow over architectures
  and sizes? Spearman's rank correlations over models (means over seeds), with intervals from
  Fisher's z and the standard error sqrt((1 + r^2 / 2) / (n - 3)) of Bonett & Wright (2000,
  Psychometrika 65:23). Their difference, on Fisher's scale, has the standard error of Meng,
  Rosenthal & Rubin for two correlations with the same variable (1992, Psychological Bulletin
  111:172), widened by Bonett & Wright's factor for ranks: without it 95% intervals of strong
  correlations held the truth 90% of the time in simulations, with it 94 to 98%.
- Interventions: how long is the plateau of the training loss against batch size, bias of the tasks,
  Adam's epsilon and learning rate, one changed at a time? Cells that had not left it when training
  ended are right-censored: a median counts them as later than all others. Differences to the
  commonest value are paired over seeds, with Student's t interval; where a cell of a pair is
  censored its difference is unknown, so only how many seeds were later and earlier is told.
- Seeds near the transition: at each number of tasks, where does every seed end? Near the transition
  they are bimodal, which means over seeds hide. Hartigans' dip test
  (`analysis.statistics.bimodality`) is of the seeds at the numbers of tasks where seeds disagree on
  generalizing, against one mode.
- Generalization: accuracy on every dataset tested on, see `analysis.questions.generalization`.
- Yardsticks: what known algorithms reach on the same sequences, see
  `analysis.questions.yardsticks`.

Each applies only to sweeps that can answer it: `find` says which do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from metaphase.analysis.commands import options
from metaphase.analysis.questions import architectures, generalization
from metaphase.analysis.questions.yardsticks import describe as describe_yardsticks
from metaphase.analysis.questions.yardsticks import last_table
from metaphase.analysis.statistics import bimodality, phases
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
MOST_PANELS = 4  # model sizes that `seeds` shows
SPREAD = 0.15  # between the best and the worst seed: told, though all may be in one phase
CAPTIONS = {
    "architectures": "Accuracy at the last tenth of the positions over each architecture's grid.",
    "state_size": "Accuracy on unseen tasks against the state and against the parameters.",
    "interventions": "Steps until the training loss left its plateau: a dot a seed, lines join "
    "equal seeds, bars are medians; triangles had not left it when training ended.",
    "seeds": "Accuracy on unseen tasks at the last tenth of the positions: a dot a seed.",
}


@dataclass(frozen=True)
class Experiment:
    """What a sweep has to say about one question."""

    kind: str  # a key of CAPTIONS, or generalization
    name: str  # of its files
    text: str
    table: pd.DataFrame
    figure: Callable[[], Figure] | None  # to be called with matplotlib's style set


def find(
    classified: pd.DataFrame, history: pd.DataFrame, yardsticks: pd.DataFrame | None = None
) -> list[Experiment]:
    """All that apply to the sweep.

    Args:
        classified: from `analysis.statistics.phases.classify`, all conditions.
        history: from `analysis.load.load_history`.
        yardsticks: from `analysis.load.load_yardsticks`.
    """
    return [
        *_find_architectures(classified),
        *_find_state_size(classified),
        *_find_interventions(classified),
        *_find_seeds(classified),
        *_find_generalization(classified, history, yardsticks),
        *_find_yardsticks(classified, yardsticks),
    ]


# --------------------------------------------------------------------------- architectures


def _find_architectures(classified: pd.DataFrame) -> Iterator[Experiment]:
    """Where architectures were trained over grids, all other settings equal."""
    by_rest: dict[tuple, list[pd.DataFrame]] = {}
    for condition, group in phases.split_conditions(classified):
        rest = tuple((k, v) for k, v in condition.items() if k != "architecture")
        if (group["status"] == schema.DONE).any() and group["model_size"].nunique() > 1:
            by_rest.setdefault(rest, []).append(group)
    for rest, groups in by_rest.items():
        if len(groups) > 1:
            cells, words = pd.concat(groups), dict(rest)
            yield Experiment(
                "architectures", f"architectures{options.suffix(words)}", "",
                architectures.accuracy_table(cells),
                functools.partial(architectures.figure, cells, _title(classified, words)),
            )  # fmt: skip


# ----------------------------------------------------------------- state size, parameter count


def _find_state_size(classified: pd.DataFrame) -> Iterator[Experiment]:
    """Where several architectures were trained on equally many tasks: those with most tasks."""
    if not {"state_size", "num_parameters"} <= set(classified):
        return
    if classified["architecture"].nunique() < 2:
        return
    for words, group in _groups(classified, ["dataset", "num_tasks"]):
        done = group[(group["status"] == schema.DONE) & group["state_size"].notna()]
        largest = classified["num_tasks"].max() == group["num_tasks"].iloc[0]
        models = done.groupby(["architecture", "model_size"]).ngroups
        if not largest or done["architecture"].nunique() < 2 or models < 4:
            continue
        table = state_size_table(done)
        title = _title(classified, words)
        yield Experiment(
            "state_size", f"state_size{options.suffix(words)}", describe_state_size(table, title),
            table, functools.partial(state_size_figure, table, title),
        )  # fmt: skip


def state_size_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Finished cells as architecture, model_size, seed, state_size, num_parameters, accuracy
    (unseen tasks, last) and chance."""
    done = cells[cells["status"] == schema.DONE]
    columns = ["architecture", "model_size", "seed", "state_size", "num_parameters"]
    table = done[columns].assign(accuracy=done["unseen_last"], chance=done["chance"])
    return table.sort_values(columns[:3]).reset_index(drop=True)


def rank_correlation(
    x: np.ndarray, y: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Spearman's correlation and its interval (see above); NaN where it isn't defined.

    Args:
        x, y: shape (n,); the interval needs n of 4 or more.
    """
    ranks = [pd.Series(v).rank().to_numpy() for v in (x, y)]
    n = len(x)
    if n < 2 or np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return np.nan, np.nan, np.nan
    r = float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1, 1))
    return _fisher_interval(r, n - 3, confidence)


def partial_rank_correlation(
    x: np.ndarray, y: np.ndarray, given: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Spearman's partial correlation of x and y, `given` held equal, and its interval.

    A variable that is held equal costs one degree of freedom in Fisher's error (Fisher 1924).
    """
    r_xy, r_xg, r_yg = (rank_correlation(a, b)[0] for a, b in ((x, y), (x, given), (y, given)))
    left = (1 - r_xg**2) * (1 - r_yg**2)
    if not left > 1e-12:
        return np.nan, np.nan, np.nan
    return _fisher_interval((r_xy - r_xg * r_yg) / float(np.sqrt(left)), len(x) - 4, confidence)


def _fisher_interval(r: float, freedom: int, confidence: float) -> tuple[float, float, float]:
    """r and its interval; no interval where the error isn't finite: a perfect rank correlation of a
    few models says nothing of how imperfect it may be."""
    if freedom < 1 or abs(r) > 1 - 1e-12:
        return float(np.clip(r, -1, 1)), np.nan, np.nan
    half = special.ndtri((1 + confidence) / 2) * np.sqrt((1 + r**2 / 2) / freedom)
    z = np.arctanh(r)
    return r, float(np.tanh(z - half)), float(np.tanh(z + half))


def correlations(table: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Rank correlations of accuracy with `state_size` and `num_parameters`, over models.

    Args:
        table: from `state_size_table`; seeds of a model are averaged, as they are no independent
            evidence on what differs between models.
    """
    models = table.groupby(["architecture", "model_size"]).mean(numeric_only=True)
    y = models["accuracy"].to_numpy()
    return {
        name: rank_correlation(models[name].to_numpy(dtype=float), y)
        for name in ("state_size", "num_parameters")
    }


def correlation_difference(
    x: np.ndarray, z: np.ndarray, y: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Rank correlation of y with x minus that with z, both Fisher-transformed, and its interval.

    NaN where it isn't defined: fewer than 4 values, constant ones, or a perfect correlation.
    """
    n = len(y)
    r_x, r_z, r_xz = (rank_correlation(a, b)[0] for a, b in ((x, y), (z, y), (x, z)))
    if n < 4 or not max(abs(r_x), abs(r_z)) < 1 - 1e-12:
        return np.nan, np.nan, np.nan
    mean = (r_x**2 + r_z**2) / 2
    f = min((1 - r_xz) / (2 * (1 - mean)), 1)
    h = (1 - f * mean) / (1 - mean)
    error = np.sqrt(2 * (1 - r_xz) * h / (n - 3) * (1 + mean / 2))
    difference = float(np.arctanh(r_x) - np.arctanh(r_z))
    half = float(special.ndtri((1 + confidence) / 2) * error)
    return difference, difference - half, difference + half


_NAMES = {"state_size": "state size", "num_parameters": "parameter count"}


def describe_state_size(table: pd.DataFrame, title: str) -> str:
    """Correlations and a line a model."""
    models = table.groupby(["architecture", "model_size"]).agg(
        state_size=("state_size", "first"), num_parameters=("num_parameters", "first"),
        mean=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"),
    )  # fmt: skip
    lines = [f"{title}: accuracy on unseen tasks, rank correlation over {len(models)} models "
             f"({CONFIDENCE:.0%} interval)"]  # fmt: skip
    for name, found in correlations(table).items():
        lines.append(f"  with {_NAMES[name]}: {_correlation(found)}")
    means = table.groupby(["architecture", "model_size"]).mean(numeric_only=True)
    state, parameters, y = (means[k].to_numpy(dtype=float) for k in (*_NAMES, "accuracy"))
    difference, low, high = correlation_difference(state, parameters, y)
    for name, other, x, held in (
        ("state_size", "num_parameters", state, parameters),
        ("num_parameters", "state_size", parameters, state),
    ):
        found = partial_rank_correlation(x, y, held)
        if np.isfinite(found[0]):
            given = f"{_NAMES[name]}, {_NAMES[other]} held equal"
            lines.append(f"  with {given}: {_correlation(found)}")
    if np.isfinite(difference):
        lines.append(
            f"  difference on Fisher's scale: {difference:+.2f} ({low:+.2f} to {high:+.2f})"
        )
    lines.append(f"  {'model':28}{'state':>10}{'parameters':>12}{'accuracy':>10}   (seeds)")
    for row in models.sort_values("state_size").reset_index().to_dict("records"):
        model = f"{row['architecture']} {row['model_size']}"
        lines.append(
            f"  {model:28}{row['state_size']:>10}{row['num_parameters']:>12}{row['mean']:>10.3f}"
            f"   ({row['low']:.3f} to {row['high']:.3f})"
        )
    return "\n".join(lines)


def _correlation(found: tuple[float, float, float]) -> str:
    r, low, high = found
    return f"{r:+.2f}" + (f" ({low:+.2f} to {high:+.2f})" if low == low else " (no interval)")


_MARKERS = "osD^vP"


def draw_state_size(table: pd.DataFrame, ax: Axes, x: str) -> Axes:
    """Accuracy against a column of `state_size_table`: small dots seeds, large ones their mean."""
    from matplotlib import colormaps

    from metaphase.analysis.figures import style

    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    ax.axhline(table["chance"].mean(), color="#888888", lw=0.7, ls=":", label="chance")
    for i, (architecture, rows) in enumerate(table.groupby("architecture")):
        look = {"color": colors[i % 10], "marker": _MARKERS[i % len(_MARKERS)]}
        ax.plot(rows[x], rows["accuracy"], ls="", ms=2.5, alpha=0.5, mew=0, **look)
        mean = rows.groupby("model_size").agg({x: "first", "accuracy": "mean"})
        label = style.architecture_label(str(architecture))
        ax.plot(mean[x], mean["accuracy"], lw=0.8, ms=5, label=label, **look)
    style.log_ticks(ax, table[x].min(), table[x].max())
    ax.set_ylim(0, 1)
    return ax


def state_size_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Two panels: against the state size, against the parameter count."""
    from matplotlib.figure import Figure

    from metaphase.analysis.figures import style

    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = {"state_size": "state size (numbers carried)", "num_parameters": "parameters"}
    found = correlations(table)
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        draw_state_size(table, ax, name)
        ax.set_xlabel(label)
        ax.set_title(f"rank correlation {_correlation(found[name])}")
    axes[0].set_ylabel("accuracy, unseen tasks")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    style.title_above(figure, title)
    return figure


# ------------------------------------------------------------------------------- interventions

FACTORS = ("batch_size", "identity_share", "adam_epsilon", "learning_rate")


def _find_interventions(classified: pd.DataFrame) -> Iterator[Experiment]:
    """Where a factor takes several values and some cell left its plateau."""
    if "plateau_steps" not in classified or not set(FACTORS) <= set(classified):
        return
    axes = ("dataset", "architecture", "model_size", "num_tasks")
    by = [name for name in axes if name in classified]
    factors = [name for name in (*FACTORS, "identity_steps") if name in classified]
    values = classified.groupby(by, dropna=False)[factors].nunique(dropna=False)
    if (values == 1).all(axis=None):  # no grid point of most sweeps has any to compare
        return
    for words, group in _groups(classified, by, factors):
        table = plateau_table(group)
        if table.empty or table["steps"].isna().all():
            continue
        title = _title(classified, words)
        summary = plateau_summary(table)
        yield Experiment(
            "interventions", f"interventions{options.suffix(words)}",
            describe_interventions(summary, title), summary,
            functools.partial(interventions_figure, table, title),
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
    values: dict[str, list] = {
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
                    (name, _value(value), order[value], value == base[name], int(cell["seed"]),
                     float(cell["plateau_steps"]), float(trained.iloc[i]))
                )  # fmt: skip
    columns = ["factor", "value", "order", "base", "seed", "steps", "limit"]
    table = pd.DataFrame(rows, columns=columns)
    several = table.groupby("factor")["value"].transform("nunique") > 1
    return table[several].sort_values(["factor", "order", "seed"]).reset_index(drop=True)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        share, steps = value
        return f"{share:g}" + (f" to 0 in {steps:g}" if steps else "")
    return f"{value:g}"


def plateau_summary(table: pd.DataFrame, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Each value's median and its difference to the base, paired over seeds.

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
        pairs = pd.DataFrame({"own": own, "base": of_base.fillna(np.inf)}).loc[
            own.index.intersection(of_base.index)
        ]
        d = (
            (pairs["own"] - pairs["base"]).to_numpy()
            if np.isfinite(pairs.to_numpy()).all()
            else None
        )
        mean = low = high = np.nan
        is_base = bool(group["base"].iloc[0])
        if d is not None and len(d) > 1 and not is_base:
            n = len(d)
            mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(n))
            half = special.stdtrit(n - 1, (1 + confidence) / 2) * error
            low, high = mean - half, mean + half
        ordered = np.sort(own.to_numpy())
        middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]
        median = middle.mean() if np.isfinite(middle).all() else np.inf
        rows.append(
            (name, group["value"].iloc[0], is_base, len(own), int(np.isinf(own).sum()), median,
             float(group["limit"].max()), len(pairs), int((pairs["own"] > pairs["base"]).sum()),
             int((pairs["own"] < pairs["base"]).sum()), mean, low, high)
        )  # fmt: skip
    columns = ["factor", "value", "base", "seeds", "not_left", "median", "limit", "pairs"]
    return pd.DataFrame(rows, columns=[*columns, "later", "earlier", "difference", "low", "high"])


def describe_interventions(summary: pd.DataFrame, title: str) -> str:
    """A line a value."""
    lines = [
        f"{title}: steps until the training loss left its plateau",
        f"  {'':20}{'median':>10}{'not left':>12}   minus base, paired over seeds "
        f"({CONFIDENCE:.0%} interval)",
    ]
    for name, rows in summary.groupby("factor", sort=False):
        lines.append(f"  {name}")
        for row in rows.to_dict("records"):
            median = f"{row['median']:.0f}" if np.isfinite(row["median"]) else (
                f"> {row['limit']:.0f}"
            )  # fmt: skip
            not_left = f"{row['not_left']} of {row['seeds']}"
            lines.append(f"    {row['value']:18}{median:>10}{not_left:>12}   {_paired(row)}")
    return "\n".join(lines)


def _paired(row: dict[Hashable, Any]) -> str:
    if row["base"]:
        return "(base)"
    signs = f"later in {row['later']}, earlier in {row['earlier']} of {row['pairs']} seeds"
    if np.isfinite(row["difference"]):
        return f"{row['difference']:+.0f} ({row['low']:+.0f} to {row['high']:+.0f}); {signs}"
    return signs if row["pairs"] else "no seed in common"


def draw_plateaus(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One factor of `plateau_table`: a dot a seed, a bar at each median."""
    values = rows.drop_duplicates("order").sort_values("order")
    at = {order: i for i, order in enumerate(values["order"])}
    ordered_seeds = sorted(rows["seed"].unique())
    shift = np.linspace(-0.15, 0.15, len(ordered_seeds)) if len(ordered_seeds) > 1 else [0.0]
    for seed, dx in zip(ordered_seeds, shift, strict=True):
        of_seed = rows[rows["seed"] == seed].sort_values("order")
        x = of_seed["order"].map(at).to_numpy(dtype=float) + dx
        y = of_seed["steps"].fillna(of_seed["limit"]).to_numpy()
        left = of_seed["steps"].notna().to_numpy()
        ax.plot(x, y, color="#bbbbbb", lw=0.5, zorder=1)
        ax.plot(x[left], y[left], ls="", marker="o", ms=3.5, color="#3a86c4", mew=0)
        ax.plot(x[~left], y[~left], ls="", marker="^", ms=4.5, color="#b00020", mfc="none", mew=0.9)
    summary = plateau_summary(rows)
    for i, median in enumerate(summary["median"]):
        if np.isfinite(median):
            ax.hlines(median, i - 0.3, i + 0.3, color="black", lw=1.4, zorder=3)
    labels = [
        f"{v}\n(base)" if b else v.replace(" to ", "\nto ")
        for v, b in zip(values["value"], values["base"], strict=True)
    ]
    ax.set_xticks(range(len(at)), labels)
    ax.set_xlim(-0.6, len(at) - 0.4)
    ax.set_yscale("log")
    ax.set_xlabel(str(rows["factor"].iloc[0]).replace("_", " "))
    return ax


def interventions_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A panel a factor."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    from metaphase.analysis.figures import style

    names = list(dict.fromkeys(table["factor"]))
    widths = [table.loc[table["factor"] == name, "order"].nunique() + 0.5 for name in names]
    figure = Figure(figsize=(1.0 + 0.55 * sum(widths), 2.9), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, width_ratios=widths, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        draw_plateaus(table[table["factor"] == name], ax)
        ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.label_outer()
    axes[0].set_ylabel("steps until the plateau is left")
    handles = [
        Line2D([], [], ls="", marker="o", ms=3.5, color="#3a86c4", label="a seed"),
        Line2D([], [], color="black", lw=1.4, label="median"),
    ]
    if table["steps"].isna().any():
        handles.insert(1, Line2D([], [], ls="", marker="^", ms=4.5, color="#b00020", mfc="none",
                                 label="not left when training ended"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    style.title_above(figure, title)
    return figure


# ----------------------------------------------------------------- seeds near the transition


def _find_seeds(classified: pd.DataFrame) -> Iterator[Experiment]:
    """Where three or more seeds ran at three or more numbers of tasks."""
    for words, group in phases.split_conditions(classified):
        done = group[group["status"] == schema.DONE]
        if done["num_tasks"].nunique() < 3 or done["seed"].nunique() < 3:
            continue
        table = seeds_table(done)
        title = _title(classified, words)
        yield Experiment(
            "seeds", f"seeds{options.suffix(words)}", describe_seeds(table, title), table,
            functools.partial(seeds_figure, table, title),
        )  # fmt: skip


def seeds_table(classified: pd.DataFrame) -> pd.DataFrame:
    """Every finished seed of a condition: model_size, num_tasks, seed, phase, accuracy, chance.

    `accuracy` is that on unseen tasks; `split` says whether seeds of its grid point disagree on
    generalizing.
    """
    phases.require_one_condition(classified)
    done = classified[classified["status"] == schema.DONE]
    table = done[["model_size", "num_tasks", "seed", "phase", "chance"]].assign(
        accuracy=done["unseen_last"].astype(float)
    )
    table["phase"] = table["phase"].astype(str)
    reached = (table["phase"] == phases.GENERALIZING).groupby(
        [table["model_size"], table["num_tasks"]]
    )
    table["split"] = reached.transform("nunique") > 1
    return table.sort_values(["model_size", "num_tasks", "seed"]).reset_index(drop=True)


def describe_seeds(table: pd.DataFrame, title: str) -> str:
    """The grid points whose seeds differ much, with every seed's accuracy in order."""
    lines = [
        f"{title}: accuracy on unseen tasks where seeds disagree on generalizing, or differ by "
        f"more than {SPREAD:g}"
    ]
    points = table.groupby(["model_size", "num_tasks"])["accuracy"]
    spread = points.transform("max") - points.transform("min")
    told = table[table["split"] | (spread > SPREAD)]
    for (size, tasks), rows in told.groupby(["model_size", "num_tasks"]):
        number = int((rows["phase"] == phases.GENERALIZING).sum())
        values = "  ".join(f"{v:.3f}" for v in np.sort(rows["accuracy"]))
        where = f"model size {_power(size)}, {_power(tasks)} tasks:"
        lines.append(f"  {where:32}{number} of {len(rows)} generalize   {values}")
    if len(lines) == 1:
        lines.append("  none")
    return "\n".join([*lines, *_bimodality(table)])


def _bimodality(table: pd.DataFrame) -> Iterator[str]:
    """A line a model size: the dip test of the seeds at grid points where seeds disagree."""
    for size, rows in table[table["split"]].groupby("model_size"):
        values = rows["accuracy"].to_numpy(dtype=float)
        where = f"  model size {_power(size)}, where seeds disagree:"
        if len(values) < bimodality.FEWEST:
            yield f"{where} {len(values)} seeds, too few to test for two modes"
        else:
            found, p = bimodality.dip_test(values)
            yield f"{where} {len(values)} seeds, Hartigans' dip {found:.3f}, p = {p:.3f}"


def draw_seeds(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy on unseen tasks of one model size: a dot a seed, coloured by its phase."""
    from metaphase.analysis.figures import style

    ax.axhline(rows["chance"].mean(), color="#888888", lw=0.7, ls=":")
    edges = style.tile_edges(rows["num_tasks"])
    for tasks in rows.loc[rows["split"], "num_tasks"].unique():
        ax.axvspan(*edges[float(tasks)], color="#f0e6f5", lw=0, zorder=0)
    unit = min(right - left for left, right in edges.values())
    seeds = sorted(rows["seed"].unique())
    shift = dict(zip(seeds, np.linspace(-0.28, 0.28, len(seeds)) * unit, strict=True))
    for phase in phases.PHASES:
        of = rows[rows["phase"] == phase]
        x = np.log2(of["num_tasks"].to_numpy(dtype=float)) + of["seed"].map(shift).to_numpy(float)
        ax.plot(x, of["accuracy"], ls="", marker="o", ms=3, color=style.COLORS[phase],
                mec="#444444", mew=0.35)  # fmt: skip
    median = rows.groupby("num_tasks")["accuracy"].median()
    x = np.log2(median.index.to_numpy(dtype=float))
    ax.hlines(median, x - 0.4 * unit, x + 0.4 * unit, color="black", lw=0.8)
    style.log2_ticks(ax, "x", rows["num_tasks"], most=9)
    ax.set_ylim(0, 1)
    ax.set_xlabel(style.NUM_TASKS_LABEL)
    return ax


def seeds_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """A panel a model size, at most `MOST_PANELS`."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from metaphase.analysis.figures import style

    sizes = style.spread(table["model_size"], MOST_PANELS)
    width = {1: 3.6, 2: 2.6}.get(len(sizes), 1.9)
    figure = Figure(figsize=(1.6 + width * len(sizes), 2.6), layout="constrained")
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for ax, size in zip(axes, sizes, strict=True):
        draw_seeds(table[table["model_size"] == size], ax)
        ax.set_title(f"{style.MODEL_SIZE_LABEL} {style.power_of_two(size)}")
        ax.label_outer()
    axes[0].set_ylabel("accuracy, unseen tasks")
    handles: list[Any] = [
        Line2D([], [], ls="", marker="o", ms=3, color=style.COLORS[phase], mec="#444444",
               mew=0.35, label=phase)
        for phase in reversed(phases.PHASES)
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="black", lw=0.8, label="median"),
        Line2D([], [], color="#888888", lw=0.7, ls=":", label="chance"),
        Patch(color="#f0e6f5", label="seeds disagree"),
    ]
    figure.legend(handles=handles, loc="outside right center")
    style.title_above(figure, title)
    return figure


# -------------------------------------------------------------------------------------- others


def _find_generalization(
    cells: pd.DataFrame, history: pd.DataFrame, yardsticks: pd.DataFrame | None
) -> Iterator[Experiment]:
    """Where cells were tested on other datasets."""
    if not history["split"].astype(str).str.startswith(f"{schema.UNSEEN}/").any():
        return
    table = generalization.generalization_table(cells, history)
    if not table.empty:
        beside = None if yardsticks is None else last_table(yardsticks, cells)
        text = generalization.describe(table, beside)
        yield Experiment("generalization", "generalization", text, table, None)


def _find_yardsticks(cells: pd.DataFrame, yardsticks: pd.DataFrame | None) -> Iterator[Experiment]:
    """Where known algorithms were run on the cells' sequences."""
    table = last_table(yardsticks, cells) if yardsticks is not None else pd.DataFrame()
    if not table.empty:
        text = describe_yardsticks(table, cells)
        yield Experiment("yardsticks", "yardsticks", text, table, None)


def _groups(
    cells: pd.DataFrame, by: list[str], besides: list[str] | None = None
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Cells equal in `by` and in all settings that vary, except those in `besides`.

    With each, the settings that tell it from the others.
    """
    varying = [n for n in generalization.varying_settings(cells) if n not in (besides or [])]
    keys = [k for k in dict.fromkeys([*by, *varying]) if k in cells]
    told = [k for k in keys if cells[k].nunique(dropna=False) > 1]
    for values, group in cells.groupby(keys, dropna=False, sort=True):
        words = dict(zip(keys, values, strict=True))
        yield {k: words[k] for k in told}, group


def _power(value: Any) -> str:
    return options.power(float(value))


def _title(cells: pd.DataFrame, condition: dict[str, object]) -> str:
    return ", ".join([str(cells["sweep"].iloc[0]), *options.words(condition)])
