"""What a sweep has in common with published numbers; `metaphase compare` and `report` show it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.published import figure2, reference, table2
from metaphase.analysis.statistics import phases
from metaphase.core.phases import DELTA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROBLEM = ("dataset", "num_classes")  # settings without which accuracies can't be compared


@dataclass(frozen=True)
class Comparison:
    """A sweep, or one of its conditions, beside one reference.

    Attributes:
        text: what is printed.
        tables: by the name of their file, with what they are.
        name: of the figure's file, without its ending.
        figure: draws the figure, to be called with matplotlib's style set.
        caption: of the figure.
    """

    text: str
    tables: dict[str, tuple[str, pd.DataFrame]]
    name: str
    figure: Callable[[], Figure]
    caption: str


def find(cells: pd.DataFrame, curves: pd.DataFrame, delta: float = DELTA) -> Iterator[Comparison]:
    """Comparisons of what the sweep trained on the paper's problem, ten classes of MNIST.

    Figure 2: transformers at several numbers of tasks of its grid. Table 2: models that were tested
    on another of its datasets. Other sweeps have nothing to compare with.

    Args:
        cells: from `analysis.load.load_cells`.
        curves: from `analysis.load.load_curves`.
        delta: see `analysis.published.figure2`.
    """
    if not set(_PROBLEM) <= set(cells):
        return
    for name in _PROBLEM:
        cells = cells[cells[name] == reference.SETTINGS[name]]
    if "phase" not in cells:  # once for all that asks which cells left their plateau
        cells = phases.classify(cells)
    for condition, group in phases.split_conditions(cells) if len(cells) else []:
        if figure2.has_points_in_common(group):
            yield beside_figure2(condition, group, delta)
    if table2.has_datasets_in_common(cells, curves):
        yield beside_table2(cells, curves)


def beside_figure2(condition: dict[str, object], group: pd.DataFrame, delta: float) -> Comparison:
    """One condition's transformers beside Figure 2.

    Args:
        condition: see `analysis.statistics.phases.split_conditions`.
        group: its cells.
        delta: see `analysis.published.figure2`.

    Raises:
        ResultsError: no grid point in common.
    """
    points = figure2.compare_points(group, delta)
    shifts = figure2.compare_transitions(points, delta).merge(
        figure2.seed_errors(group, points, delta), on=["model_size", "measure"], how="left"
    )
    end = labels.file_suffix(condition)
    name = f"compare-{reference.FIGURE2}"

    def draw() -> Figure:
        from metaphase.analysis.published import figure2_maps  # here, as matplotlib loads slowly

        return figure2_maps.figure(points, shifts, labels.title(group, condition))

    return Comparison(
        figure2.describe(group, points, shifts, condition),
        {
            f"{name}{end}.csv": ("Grid points in common", points),
            f"{name}-transitions{end}.csv": ("Where generalizing takes over", shifts),
        },
        f"{name}{end}",
        draw,
        "Accuracy of the paper's models, of ours, and the difference, on seen and on unseen "
        "tasks. Lines: where accuracy on unseen tasks reaches half of its rise.",
    )


def beside_table2(cells: pd.DataFrame, curves: pd.DataFrame) -> Comparison:
    """A sweep beside Table 2; arguments as for `find`.

    Raises:
        ResultsError: no dataset in common.
    """
    table = table2.compare_datasets(cells, curves)
    name = f"compare-{reference.TABLE2}"
    return Comparison(
        table2.describe(table),
        {f"{name}.csv": ("Accuracy by method and dataset", table)},
        name,
        functools.partial(table2.figure, table, labels.title(cells, {})),
        "Accuracy on new tasks of every dataset tested on: open symbols the paper's, filled ones "
        "ours with their standard error.",
    )
