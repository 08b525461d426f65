"""The order parameter: accuracy on unseen tasks as physics and the literature read it.

`order_parameter` has the mean and variance over seeds; `variance_peak` where the variance is
largest; `collapse` the exponent at which all sizes' curves are one, and how well they are;
`budget_crossings` where more training begins to help on new tasks. What each is:
`analysis.statistics.order_parameter`. Asked where two or more seeds ran at three or more numbers of
tasks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import order_parameter, phases
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.analysis.transition_text import about

WORST_COLLAPSE = 4.0  # quality: points are off the common curve by twice their error


def find(classified: pd.DataFrame, history: pd.DataFrame) -> Iterator[Answer]:
    """The answers for each condition with enough seeds and numbers of tasks."""
    for condition, cells in phases.split_conditions(classified):
        if cells["seed"].nunique() < 2 or cells["num_tasks"].nunique() < 3:
            continue
        end, title = labels.file_suffix(condition), labels.title(classified, condition)
        table = order_parameter.order_table(cells)
        peaks = order_parameter.variance_peaks(cells)
        falls = order_parameter.collapse(table)
        crossings = order_parameter.budget_crossings(cells, history)
        if table.empty:
            continue
        powers = labels.are_powers_of_two(cells["num_tasks"].unique())
        text = describe(peaks, falls, crossings, title, powers)
        yield Answer(f"order_parameter{end}", text, table)
        for name, found in (
            ("variance_peak", peaks), ("collapse", falls), ("budget_crossings", crossings)
        ):  # fmt: skip
            if len(found):
                yield Answer(f"{name}{end}", "", found)


def describe(
    peaks: pd.DataFrame,
    falls: pd.DataFrame,
    crossings: pd.DataFrame,
    title: str,
    powers: bool = True,
) -> str:
    """A line a model size: the variance's peak, and where more training begins to help.

    Args:
        powers: numbers of tasks are powers of two.
    """
    told = [f"{title}: accuracy on unseen tasks over seeds ({CONFIDENCE:.0%} intervals)"]
    for row in peaks.to_dict("records"):
        if not np.isfinite(row["low"]):
            continue  # too few seeds to say so
        size = f"  model size {labels.power_of_two(row['model_size'])}: "
        text = f"varies most at {_place(row, powers)}"
        last = crossings[crossings["model_size"] == row["model_size"]]
        if len(last) and np.isfinite(last["log2_num_tasks"].iloc[0]):
            one = last.iloc[0]
            text += f", training beyond {one['step']:g} steps helps from {_place(one, powers)}"
        told.append(size + text)
    told += [f"  {_fall(row)}" for row in falls.to_dict("records")]
    return "\n".join(told) if len(told) > 1 else ""


def _fall(row: Mapping[Hashable, Any]) -> str:
    """The collapse of all sizes' curves in words."""
    best = f"quality at best {row['quality']:.2g} (1: within errors)"
    if row["quality"] > WORST_COLLAPSE:
        return f"curves of {row['sizes']} sizes fall together at no exponent: {best}"
    if np.isinf(row["low"]) and np.isinf(row["high"]):
        return f"curves of {row['sizes']} sizes fall together at any exponent: {best}"
    ends = [f"{end:.1f}" for end in (row["low"], row["high"])]
    between = f"{ends[0]} to {ends[1]}"
    if np.isinf(row["low"]) or np.isinf(row["high"]):
        between = f"below {ends[1]}" if np.isinf(row["low"]) else f"above {ends[0]}"
    return (
        f"curves of {row['sizes']} sizes fall together best at N ~ size ^ {row['exponent']:.1f} "
        f"({between}): {best}, unshifted {row['unshifted']:.2g}"
    )


def _place(row: Mapping[Hashable, Any], powers: bool) -> str:
    """A number of tasks with its interval: "2^7.3 (2^6.1 to 2^8.0)", "2^7.3 (above 2^6.1)"."""
    at, low, high = (row[name] for name in ("log2_num_tasks", "low", "high"))
    text = about(at, powers)
    if np.isfinite(low) and np.isfinite(high):
        return f"{text} ({about(low, powers)} to {about(high, powers)})"
    if np.isfinite(low):
        return f"{text} (above {about(low, powers)})"
    return f"{text} (below {about(high, powers)})" if np.isfinite(high) else text
