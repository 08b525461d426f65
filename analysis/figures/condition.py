"""Which figures one condition has results for; `metaphase plot` and `report` draw them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from metaphase.analysis import labels
from metaphase.analysis.figures import accuracy, improvement, learning_curves, phase_map
from metaphase.analysis.statistics import boundary
from metaphase.core import schema

CAPTIONS = {
    "phase_map": "Phase of every cell; a grid point's seeds lie one above the other, ordered by "
    "phase. Symbols: where phases begin and end, with their intervals; thin lines, where they are "
    "clear: power laws over all model sizes, dotted their intervals. "
    "Light: points that a search didn't train, in the colour of the most probable phase.",
    "accuracy": "Accuracy at the last tenth of the positions: the mean over seeds, and beside it "
    "the seeds where they are far apart.",
    "improvement": "What examples bring: the accuracy at the last tenth of the positions above the "
    "level of unseen tasks, which naming the commonest label so far reaches; the improvement "
    "within the sequence on seen tasks; and how much better seen tasks are than unseen ones. "
    "Phases by accuracy are told where these exceed δ. A symbol a seed, with its interval.",
    "learning_curves": "Accuracy against examples seen, a line a seed. Lines with symbols, if any: "
    "known learning algorithms, fitted to the same examples.",
}


def figures(
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    transitions: pd.DataFrame,
    condition: Mapping[str, object],
    delta: float,
    confidence: float,
    yardsticks: pd.DataFrame | None = None,
    expected: pd.DataFrame | None = None,
) -> dict[str, Callable[[], Figure]]:
    """The figures by name, of `CAPTIONS`; each is drawn when it is called.

    Args:
        cells: of the condition, as from `analysis.statistics.phases.classify`.
        curves: from `analysis.load.load_curves`.
        transitions: from `analysis.statistics.transitions.estimate_transitions`.
        condition: see `analysis.statistics.phases.split_conditions`.
        delta, confidence: the threshold and of the intervals that cells were classified with.
        yardsticks: from `analysis.load.load_yardsticks`.
        expected: of a search, from `analysis.statistics.untrained.expected`.
    """
    title = labels.title(cells, condition)
    finished = cells[cells["status"] == schema.DONE]
    makers = {
        "phase_map": lambda: phase_map.figure(
            cells, transitions, title, boundary.boundaries(cells), expected
        )
    }
    if len(finished):
        makers["accuracy"] = lambda: accuracy.figure(cells, title)
        makers["improvement"] = lambda: improvement.figure(cells, title, delta, confidence)
    if curves["cell_id"].isin(finished["cell_id"]).any():
        makers["learning_curves"] = lambda: learning_curves.figure(curves, cells, title, yardsticks)
    return makers
