"""Boundaries of phases: how they move with what counts as an effect, and with the model's size.

Three answers: `transitions_by_delta`, how transitions move with the least effect that counts;
`boundary`, all model sizes at once by the joint models of `analysis.statistics.boundary`, with the
power law N*(size); `transitions_along_size`, the thresholds along model size at each number of
tasks. The first two are asked where there are three or more numbers of tasks, the latter two where
there are three or more model sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels, transition_text
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import boundary, phases, transitions
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE as OF_CELLS

FEWEST = 3  # numbers of tasks


def find(
    classified: pd.DataFrame, confidence: float = OF_CELLS, rule: Rule | None = None
) -> Iterator[Answer]:
    """The answers for each condition with enough numbers of tasks or model sizes.

    Args:
        classified: from `analysis.statistics.phases.classify`, all conditions.
        confidence, rule: that the cells were classified with.
    """
    for condition, cells in phases.split_conditions(classified):
        end, title = labels.file_suffix(condition), labels.title(classified, condition)
        tasks = transitions.usable_cells(cells)["num_tasks"]
        if tasks.nunique() >= FEWEST:
            moved = transitions.by_delta(cells, of_cells=confidence, rule=rule)
            yield Answer(f"transitions_by_delta{end}", describe_deltas(moved, title), moved)
            by_size, laws = boundary.boundaries(cells)
            if len(laws):
                powers = labels.are_powers_of_two(tasks.unique())
                yield Answer(f"boundary{end}", describe_laws(laws, title, powers), by_size)
                yield Answer(f"power_law{end}", "", laws)
        along = transitions.along_model_size(cells)
        if along["clear"].any() and np.isfinite(along["log2_model_size"]).any():
            yield Answer(f"transitions_along_size{end}", "", along)


def describe_deltas(moved: pd.DataFrame, title: str) -> str:
    """A line for each model size and phase whose transition lies within the grid at some delta."""
    told = [f"{title}: number of tasks where a phase begins, by the least effect that counts"]
    begins = moved[moved["boundary"] == transitions.BEGIN]
    told.append(" " * 33 + "".join(f"{f'delta {d:g}':>14}" for d in moved["delta"].unique()))
    rows: dict[tuple[Any, Any], list[dict[Hashable, Any]]] = {}
    for row in begins.sort_values(["model_size", "begins"], kind="stable").to_dict("records"):
        rows.setdefault((row["model_size"], row["begins"]), []).append(row)
    for (size, phase), of_deltas in rows.items():
        if any(np.isfinite(row["log2_num_tasks"]) for row in of_deltas):
            places = [_short(transition_text.place(row).split(" (")[0]) for row in of_deltas]
            where = f"  model size {labels.power_of_two(size)}, {phase}"
            told.append(f"{where:33}" + "".join(f"{text:>14}" for text in places))
    return "\n".join(told) if len(told) > 2 else ""


def describe_laws(laws: pd.DataFrame, title: str, powers: bool = True) -> str:
    """A line a phase: the power law with its interval, and whether the boundary moves at all.

    Args:
        powers: numbers of tasks are powers of two.
    """
    told = [
        f"{title}: where phases begin, by all model sizes at once ({CONFIDENCE:.0%} intervals of "
        "exponents)"
    ]
    for row in laws.to_dict("records"):
        law = transition_text.power_law(row, powers) if row["clear"] else "no clear power law"
        told.append(
            f"  {row['begins']}: {law}; Bayes factor of a move {row['moves']:.2g}, of a power law "
            f"against any smooth boundary {row['bayes_factor']:.2g}"
        )
    return "\n".join(told)


def _short(place: str) -> str:
    """ "not up to 2^12" -> "> 2^12"."""
    if place.startswith("not up to "):
        return "> " + place.removeprefix("not up to ")
    if place.endswith(" or below"):
        return "<= " + place.removeprefix("at ").removesuffix(" or below")
    return place
