"""The order parameter: accuracy on unseen tasks as physics and the literature read it.

`order-parameter` has the mean and variance over seeds; `variance-peak` where the variance is
largest; `collapse` the exponent at which all sizes' curves are one, and how well they are;
`budget-crossings` where more training begins to help on new tasks. What each is:
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
        text = describe(peaks, falls, crossings, title)
        yield Answer(f"order-parameter{end}", text, table)
        for name, found in (
            ("variance-peak", peaks), ("collapse", falls), ("budget-crossings", crossings)
        ):  # fmt: skip
            if len(found):
                yield Answer(f"{name}{end}", "", found)


def describe(peaks: pd.DataFrame, falls: pd.DataFrame, crossings: pd.DataFrame, title: str) -> str:
    """A line a model size: the variance's peak, and where more training begins to help."""
    told = [f"{title}: accuracy on unseen tasks over seeds ({CONFIDENCE:.0%} bootstrap intervals)"]
    for row in peaks.to_dict("records"):
        if not np.isfinite(row["low"]):
            continue  # too few seeds to say so
        size = f"  model size {labels.power_of_two(row['model_size'])}: "
        text = f"varies most at 2^{row['log2_num_tasks']:.1f}{_interval(row)}"
        last = crossings[crossings["model_size"] == row["model_size"]]
        if len(last) and np.isfinite(last["log2_num_tasks"].iloc[0]):
            one = last.iloc[0]
            text += (
                f", training beyond {one['step']:g} steps helps from "
                f"2^{one['log2_num_tasks']:.1f}{_interval(one)}"
            )
        told.append(size + text)
    for row in falls.to_dict("records"):
        told.append(
            f"  curves of {row['sizes']} sizes fall together best at N ~ size ^ "
            f"{row['exponent']:.1f}: quality {row['quality']:.2g} (1: within errors), "
            f"unshifted {row['unshifted']:.2g}"
        )
    return "\n".join(told) if len(told) > 1 else ""


def _interval(row: Mapping[Hashable, Any]) -> str:
    return f" (2^{row['low']:.1f} to 2^{row['high']:.1f})" if np.isfinite(row["low"]) else ""
