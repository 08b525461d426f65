"""Heat maps of a sweep beside the paper's Figure 2, from the tables of `published.figure2`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from metaphase.analysis.figures import sides
from metaphase.analysis.published.figure2 import SOURCE
from metaphase.core.phases import GENERALIZING


def marks(shifts: pd.DataFrame, side: str) -> pd.DataFrame:
    """Where a side's accuracy on unseen tasks reaches half of its rise, where that is in the grid.

    Args:
        shifts: from `published.figure2.compare_transitions`.
        side: paper or ours.

    Returns:
        As from `figures.transition_marks.table`, without intervals.
    """
    half = shifts[(shifts["measure"] == "half") & np.isfinite(shifts[side])]
    return pd.DataFrame(
        {"model_size": half["model_size"], "phase": GENERALIZING, "boundary": "begin",
         "log2_num_tasks": half[side], "low": np.nan, "high": np.nan}
    )  # fmt: skip


def figure(points: pd.DataFrame, shifts: pd.DataFrame, title: str = "") -> Figure:
    """The paper's heat maps, ours and the difference; on unseen tasks where half the rise is.

    Args:
        points: from `published.figure2.compare_points`.
        shifts: from `published.figure2.compare_transitions`.
        title: what the sweep is called.
    """
    names = {"paper": "paper", "ours": "ours"}
    return sides.figure(
        points, names, {side: marks(shifts, side) for side in names},
        points[["level_paper", "level_ours"]].mean(),
        f"{title} beside {SOURCE}", "half of the rise",
    )  # fmt: skip
