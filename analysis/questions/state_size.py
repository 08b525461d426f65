"""State size or parameter count: which one does accuracy on unseen tasks follow?

Over architectures and sizes, at the most tasks that were trained on: rank correlations over models,
which are means over seeds, as seeds of a model are no independent evidence on what differs between
models. Asked where several architectures were trained on equally many tasks.
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
from metaphase.analysis.statistics.correlations import (
    Estimate,
    correlation_difference,
    partial_rank_correlation,
    rank_correlation,
)
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = "Accuracy on unseen tasks against the state and against the parameters."
FEWEST_MODELS = 4  # that a correlation is told of
_NAMES = {"state_size": "state size", "num_parameters": "parameter count"}
_MODEL = ["architecture", "model_size"]


def find(classified: pd.DataFrame) -> Iterator[Answer]:
    """An answer for each dataset and further settings, at the most tasks."""
    if not set(_NAMES) <= set(classified) or classified["architecture"].nunique() < 2:
        return
    for condition, group in settings.equal_groups(classified, ["dataset", "num_tasks"]):
        done = group[(group["status"] == schema.DONE) & group["state_size"].notna()]
        most = classified["num_tasks"].max() == group["num_tasks"].iloc[0]
        models = done.groupby(_MODEL).ngroups
        if not most or done["architecture"].nunique() < 2 or models < FEWEST_MODELS:
            continue
        table = model_table(done)
        title = labels.title(classified, condition)
        yield Answer(
            f"state_size{labels.file_suffix(condition)}", describe(table, title), table,
            functools.partial(figure, table, title), CAPTION,
        )  # fmt: skip


def model_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Finished cells as architecture, model_size, seed, state_size, num_parameters, accuracy
    (unseen tasks, last) and `chance`, what is reached there without looking at inputs."""
    done = cells[cells["status"] == schema.DONE]
    columns = [*_MODEL, "seed", *_NAMES]
    table = done[columns].assign(accuracy=done["unseen_last"], chance=phases.new_task_level(done))
    return table.sort_values(columns[:3]).reset_index(drop=True)


def correlations(table: pd.DataFrame) -> dict[str, Estimate]:
    """Rank correlations of accuracy with `state_size` and `num_parameters`, over models.

    Args:
        table: from `model_table`; seeds of a model are averaged.
    """
    state, parameters, accuracy = _means(table)
    return {
        "state_size": rank_correlation(state, accuracy),
        "num_parameters": rank_correlation(parameters, accuracy),
    }


def _means(table: pd.DataFrame) -> list[np.ndarray]:
    """State sizes, parameter counts and accuracies by model, means over seeds, shape (models,)."""
    means = table.groupby(_MODEL).mean(numeric_only=True)
    return [means[name].to_numpy(dtype=float) for name in (*_NAMES, "accuracy")]


def describe(table: pd.DataFrame, title: str) -> str:
    """Correlations and a line a model."""
    models = table.groupby(_MODEL).agg(
        state_size=("state_size", "first"), num_parameters=("num_parameters", "first"),
        mean=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"),
    )  # fmt: skip
    lines = [f"{title}: accuracy on unseen tasks, rank correlation over {len(models)} models "
             f"({CONFIDENCE:.0%} interval)"]  # fmt: skip
    for name, found in correlations(table).items():
        lines.append(f"  with {_NAMES[name]}: {_estimate_text(found)}")
    state, parameters, accuracy = _means(table)
    for name, other, x, held in (
        ("state_size", "num_parameters", state, parameters),
        ("num_parameters", "state_size", parameters, state),
    ):
        found = partial_rank_correlation(x, accuracy, held)
        if np.isfinite(found[0]):
            given = f"{_NAMES[name]}, {_NAMES[other]} held equal"
            lines.append(f"  with {given}: {_estimate_text(found)}")
    difference, low, high = correlation_difference(state, parameters, accuracy)
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


def _estimate_text(found: Estimate) -> str:
    r, low, high = found
    return f"{r:+.2f}" + (f" ({low:+.2f} to {high:+.2f})" if low == low else " (no interval)")


def draw(table: pd.DataFrame, ax: Axes, x: str) -> Axes:
    """Accuracy against a column of `model_table`: small symbols seeds, large ones their mean.

    Args:
        table: from `model_table`.
        ax: where to draw.
        x: `state_size` or `num_parameters`.
    """
    import seaborn as sns

    from metaphase.analysis.figures import axes, style

    style.draw_chance(ax, table["chance"].mean())
    named = table.assign(architecture=table["architecture"].map(style.architecture_label))
    means = named.groupby(_MODEL, as_index=False)[[x, "accuracy"]].mean()
    order, unit = list(named["architecture"].unique()), style.scale()
    look: dict[str, Any] = {"x": x, "y": "accuracy", "ax": ax}
    look |= {"hue": "architecture", "hue_order": order, "palette": "colorblind"}
    look |= {"style": "architecture", "style_order": order, "markers": True}
    sns.scatterplot(named, **look, s=8 * unit**2, alpha=0.5, linewidth=0, legend=False)
    sns.lineplot(means, **look, dashes=False, sort=False, lw=0.8 * unit, ms=6 * unit, mew=0)
    axes.log_ticks(ax, "x")
    ax.set_ylim(0, 1)
    return ax


def figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Two panels: against the state size, against the parameter count."""
    from metaphase.analysis.figures import panels, style

    columns = {"state_size": "state size (numbers carried)", "num_parameters": "parameters"}
    names = ["chance", *(style.architecture_label(a) for a in table["architecture"].unique())]
    whole = panels.Panels(
        panels.facets(2, 2.4), 2.0, title,
        ["large symbols: means over seeds, small ones: seeds"], names, between=(0.25, 0.75),
    )  # fmt: skip
    found = correlations(table)
    handles: dict[str, Any] = {}
    for ax, (column, name) in zip(whole.axes, columns.items(), strict=True):
        draw(table, ax, column)
        ax.set(xlabel=name, ylabel="accuracy, unseen tasks")
        ax.set_title(f"rank correlation {_estimate_text(found[column])}")
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if legend := ax.get_legend():
            legend.remove()
    for row in whole.rows:
        for ax in row[1:]:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    whole.legend([handles[name] for name in names])
    return whole.figure
