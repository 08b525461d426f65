"""A sweep beside the paper's Figure 2: accuracy over model size and number of tasks.

Our accuracies are those of the last tenth of the positions (`last`), means over the seeds that
finished and left their plateau (`analysis.statistics.transitions.usable_cells`: a cell that wasn't
trained long enough doesn't say that more tasks don't help); the paper's are those of the last
position.

Figure 2 gives two numbers a grid point, the last accuracies on seen and on unseen tasks, so the
tests of `analysis.statistics.phases`, which need errors and the first position too, can't be
applied to it. For this comparison both sides are put into regimes by one rule. With chance the
accuracy of always naming the commonest class, level that of naming the commonest label so far on a
new task (`core.label_counts`), and delta 0.05 unless told otherwise, a grid point is

- generalizing if unseen > level + delta,
- else seen-only (memorizing or identifying, which the last position can't tell apart) if
  seen > chance + delta,
- else untrained.

Where along the number of tasks generalizing takes over is told in two ways, both as log2 N,
interpolated linearly between neighbouring grid points, for every model size:

- `onset`: from where on unseen accuracy stays above level + delta;
- `half`: from where on it stays above half its own rise, level + (plateau - level) / 2, the
  plateau being the mean over the three largest numbers of tasks. Defined only where the plateau is
  above level + delta. It doesn't depend on how high the plateau is, so it also compares runs that
  were trained for a shorter time.

The shift is ours minus the paper's, in octaves. Where a side has not got there at the largest
number of tasks, or is beyond it at the smallest, the shift is a bound or unknown, and says so. Only
grid points that both sides have are used, on both sides, so that a coarse grid is compared with the
same coarse grid of the paper's. With several seeds the shift has a 95% interval: Student's t of the
places that each seed has by itself. It is about our seeds alone (how many the paper had isn't said)
and missing where a seed's place is outside the grid. Interpolation adds up to a grid's spacing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels, load
from metaphase.analysis.published import reference
from metaphase.analysis.questions.generalization import T_INTERVAL
from metaphase.analysis.statistics import phases
from metaphase.analysis.statistics.intervals import t_half_width
from metaphase.analysis.statistics.transitions import usable_cells
from metaphase.core import schema
from metaphase.core.phases import DELTA, GENERALIZING, UNTRAINED

SOURCE = "Kirsch et al. 2022, Figure 2 (Transformer, MNIST)"
ARCHITECTURE = "transformer"
SEEN_ONLY = "seen-only"
REGIMES = (UNTRAINED, SEEN_ONLY, GENERALIZING)
PLATEAU_POINTS = 3
SIDES = ("paper", "ours", "difference")  # the columns of a split, `<split>_<side>`


def regime(seen: Any, unseen: Any, chance: Any, level: Any, delta: float) -> np.ndarray:
    """One of `REGIMES` from the last accuracies, elementwise; the rule is the module's."""
    choices = [np.asarray(unseen) > level + delta, np.asarray(seen) > chance + delta]
    return np.select(choices, [GENERALIZING, SEEN_ONLY], UNTRAINED)


def has_points_in_common(cells: pd.DataFrame) -> bool:
    """Whether these are transformers, trained long enough at several of the paper's numbers of
    tasks.

    Args:
        cells: of one condition.
    """
    keys = ["model_size", "num_tasks"]
    ours = _usable(cells[cells["architecture"] == ARCHITECTURE])
    common = ours[keys].drop_duplicates().merge(reference.load_figure2()[keys].drop_duplicates())
    return bool((common.groupby("model_size").size() > 1).any())


def compare_points(cells: pd.DataFrame, delta: float = DELTA) -> pd.DataFrame:
    """Both sides at the grid points they share, by model size and number of tasks.

    Args:
        cells: of one condition, as from `analysis.load.load_cells`.
        delta: see above.

    Returns:
        model_size, num_tasks, for seen and unseen `<split>_paper`, `<split>_ours` and
        `<split>_difference` (ours minus paper), `seeds` (behind ours), `chance_paper`,
        `chance_ours`, `level_paper`, `level_ours` (of new tasks), `regime_paper`, `regime_ours`.

    Raises:
        ResultsError: no grid point in common, or cells that differ in more than the grid's axes.
    """
    phases.require_one_condition(cells)
    keys = ["model_size", "num_tasks"]
    usable = _usable(cells)
    done = usable.groupby(keys)
    ours = pd.DataFrame(
        {s: done[f"{s}_{schema.LAST}"].mean() for s in (schema.SEEN, schema.UNSEEN)}
        | {
            "chance": done["chance"].mean(),
            "level": phases.new_task_level(usable).groupby([usable[key] for key in keys]).mean(),
            "seeds": done.size(),
        }
    )
    paper = reference.load_figure2().pivot(index=keys, columns="split", values="accuracy")
    table = paper.add_suffix("_paper").join(ours.add_suffix("_ours"), how="inner").sort_index()
    if table.empty:
        raise load.ResultsError(
            "no grid point in common with the reference, which has model sizes 2 to 512 and "
            "numbers of tasks 1 to 2^25, in powers of two"
        )
    table = table.rename(columns={"seeds_ours": "seeds"})
    table = table.assign(chance_paper=reference.CHANCE, level_paper=reference.LEVEL)
    for split in (schema.SEEN, schema.UNSEEN):
        table[f"{split}_difference"] = table[f"{split}_ours"] - table[f"{split}_paper"]
    for side in ("paper", "ours"):
        table[f"regime_{side}"] = regime(
            table[f"seen_{side}"],
            table[f"unseen_{side}"],
            table[f"chance_{side}"],
            table[f"level_{side}"],
            delta,
        )
    columns = [f"{split}_{side}" for split in (schema.SEEN, schema.UNSEEN) for side in SIDES]
    columns += ["seeds", "chance_paper", "chance_ours", "level_paper", "level_ours"]
    columns += ["regime_paper", "regime_ours"]
    return table[columns].reset_index()


def mean_absolute_difference(points: pd.DataFrame) -> dict[str, float]:
    """Over grid points, for `seen`, `unseen` and `both`."""
    each = {s: float(points[f"{s}_difference"].abs().mean()) for s in (schema.SEEN, schema.UNSEEN)}
    return {**each, "both": sum(each.values()) / len(each)}


def agreement(points: pd.DataFrame) -> pd.DataFrame:
    """Number of grid points by the paper's regime (rows) and ours (columns)."""
    table = pd.crosstab(points["regime_paper"], points["regime_ours"])
    return table.reindex(index=list(REGIMES), columns=list(REGIMES), fill_value=0)


def crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """From which x on y stays above a level; linear in between. -inf: always, inf: not at last.

    Args:
        x: ascending, shape (points,).
        y: shape (points,).
    """
    below = np.flatnonzero(y <= level)
    if not len(below):
        return -np.inf
    i = below[-1]
    if i == len(y) - 1:
        return np.inf
    return float(x[i] + (x[i + 1] - x[i]) * (level - y[i]) / (y[i + 1] - y[i]))


def onset_and_half(
    x: np.ndarray, unseen: np.ndarray, level: float, delta: float
) -> tuple[float, float]:
    """The two places, in log2 N, where generalizing takes over; see the module."""
    onset = crossing(x, unseen, level + delta)
    plateau = float(np.mean(unseen[-PLATEAU_POINTS:]))
    if plateau <= level + delta:
        return onset, np.nan
    return onset, crossing(x, unseen, level + (plateau - level) / 2)


def compare_transitions(points: pd.DataFrame, delta: float = DELTA) -> pd.DataFrame:
    """Where generalizing takes over on both sides, and the shift, a row a model size and measure.

    Args:
        points: from `compare_points`.
        delta: see above.

    Returns:
        model_size, `measure` (onset or half), `smallest`, `largest` (log2 N of the points used),
        `paper`, `ours` (log2 N; inf: not reached at the largest, -inf: beyond it at the smallest;
        NaN: no plateau above level + delta, so half of it isn't defined),
        and the shift's `low` and `high` in octaves: equal where both are inside the grid.
    """
    rows = []
    for size, group in points.groupby("model_size"):
        group = group.sort_values("num_tasks")
        x = np.log2(group["num_tasks"].to_numpy(dtype=float))
        sides = [
            onset_and_half(
                x, group[f"unseen_{side}"].to_numpy(), group[f"level_{side}"].mean(), delta
            )
            for side in ("paper", "ours")
        ]
        for measure, paper, ours in zip(("onset", "half"), *sides, strict=True):
            (p_low, p_high), (o_low, o_high) = (_bounds(at, x[0], x[-1]) for at in (paper, ours))
            rows.append(
                (size, measure, x[0], x[-1], paper, ours, o_low - p_high, o_high - p_low)
            )  # fmt: skip
    columns = ["model_size", "measure", "smallest", "largest", "paper", "ours", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def seed_errors(cells: pd.DataFrame, points: pd.DataFrame, delta: float = DELTA) -> pd.DataFrame:
    """Half the t interval, over seeds, of the mean place where generalizing takes over.

    Args:
        cells: of one condition, those behind `points`.
        points: from `compare_points`.
        delta: see above.

    Returns:
        model_size, `measure`, `seeds` (with results at all points of the size), `half_width` in
        octaves (NaN: fewer than 2 seeds, or one whose place is outside the grid).
    """
    done = _usable(cells)
    rows = []
    for size, group in points.groupby("model_size"):
        tasks = np.sort(group["num_tasks"].to_numpy())
        unseen = done[done["model_size"] == size].pivot(
            index="seed", columns="num_tasks", values=f"unseen_{schema.LAST}"
        )
        unseen = unseen.reindex(columns=tasks).dropna()
        level, x = float(group["level_ours"].mean()), np.log2(tasks.astype(float))
        places = [
            onset_and_half(x, y, level, delta) for y in unseen.to_numpy(dtype=float, copy=True)
        ]
        for i, measure in enumerate(("onset", "half")):
            at = np.array([place[i] for place in places])
            half = np.nan
            if len(at) > 1 and np.isfinite(at).all():
                half = float(t_half_width(at.std(ddof=1), len(at)))
            rows.append((size, measure, len(at), half))
    return pd.DataFrame(rows, columns=["model_size", "measure", "seeds", "half_width"])


def _usable(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that finished and left their plateau."""
    if "phase" not in cells:
        cells = phases.classify(cells)
    return usable_cells(cells)


def _bounds(at: float, smallest: float, largest: float) -> tuple[float, float]:
    if np.isnan(at):
        return -np.inf, np.inf
    if at == np.inf:
        return largest, np.inf
    return (-np.inf, smallest) if at == -np.inf else (at, at)


def describe(
    cells: pd.DataFrame,
    points: pd.DataFrame,
    shifts: pd.DataFrame,
    condition: dict[str, object] | None = None,
) -> str:
    """The comparison in words and a table."""
    mad = mean_absolute_difference(points)
    table = agreement(points)
    same = int(np.trace(table.to_numpy()))
    dataset = str(cells["dataset"].iloc[0]) if "dataset" in cells else reference.DATASET
    lines = [
        f"{labels.title(cells, condition or {})} beside {SOURCE}",
        f"{len(points)} grid points in common, of the paper's {len(reference.load_figure2()) // 2}",
    ]
    late = int((cells["status"] == schema.DONE).sum()) - len(_usable(cells))
    if late:
        lines.append(f"left out: {late} cells that were not trained long enough to have a phase")
    differing = _differing_settings(cells)
    if differing:
        text = f"settings, the paper's in brackets: {differing}"
        lines += textwrap.wrap(text, 98, subsequent_indent="  ", break_on_hyphens=False)
    if dataset != reference.DATASET:
        lines.append(f"note: ours are trained on {dataset}, the paper's on {reference.DATASET}")
    lines += [
        "mean absolute difference of the last accuracies: "
        + ", ".join(f"{name} {value:.3f}" for name, value in mad.items()),
        f"regimes agree at {same} of {len(points)} grid points ({same / len(points):.0%})",
        f"  {'paper, ours:':14}" + "".join(f"{name:>14}" for name in REGIMES),
        *(
            f"  {name:14}" + "".join(f"{n:>14}" for n in row)
            for name, row in zip(REGIMES, table.to_numpy(), strict=True)
        ),
        "generalizing takes over, log2 number of tasks; shift: ours − paper, octaves"
        + (f" (±: {T_INTERVAL})" if _has_errors(shifts) else ""),
        f"  {'':10}{'onset':^39}   {'half of the rise':^39}",
        f"  {'model size':>10}" + "   ".join([f"{'paper':>13}{'ours':>13}{'shift':>13}"] * 2),
    ]
    for size, rows in shifts.groupby("model_size"):
        parts = [
            "".join(f"{text:>13}" for text in (*_places(row), shift_text(row)))
            for row in rows.to_dict("records")
        ]
        lines.append(f"  {labels.power_of_two(size):>10}" + "   ".join(parts))
    return "\n".join(lines)


def _has_errors(shifts: pd.DataFrame) -> bool:
    return "half_width" in shifts and bool(shifts["half_width"].notna().any())


def _differing_settings(cells: pd.DataFrame) -> str:
    """Where our settings are others than the paper states, and what it doesn't state."""
    parts = []
    for name, theirs in reference.SETTINGS.items():
        if name in cells and (cells[name] != theirs).any():
            ours = ", ".join(str(v) for v in sorted(set(cells[name])))
            parts.append(f"{name} {ours} ({theirs})")
    for name in reference.NOT_STATED:
        if name in cells:
            ours = ", ".join(f"{v:g}" for v in sorted(set(cells[name])))
            parts.append(f"{name} {ours} (not stated)")
    return "; ".join(parts)


def _places(row: dict[Hashable, Any]) -> list[str]:
    texts = {np.inf: f"not to {row['largest']:g}", -np.inf: f"before {row['smallest']:g}"}
    places = [texts.get(row[side], f"{row[side]:.1f}") for side in ("paper", "ours")]
    return ["no rise" if place == "nan" else place for place in places]


def shift_text(row: dict[Hashable, Any]) -> str:
    """A shift of `compare_transitions` in words: "+0.4", "> +2.0", "both not"."""
    if row["paper"] == row["ours"] == np.inf or np.isnan([row["paper"], row["ours"]]).all():
        return "neither"
    if row["paper"] == row["ours"] == -np.inf:
        return "both before"
    low, high = row["low"], row["high"]
    if low == high:
        half = row.get("half_width", np.nan)
        return f"{round(low, 1) + 0.0:+.1f}" + (f" ± {half:.1f}" if half == half else "")
    if np.isfinite(low):
        return f"> {low:+.1f}"
    return f"< {high:+.1f}" if np.isfinite(high) else "unknown"
