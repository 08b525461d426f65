"""The phase map in letters, with counts and transition estimates, as commands print it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.statistics import phases, transitions
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core import schema
from metaphase.core.phases import PHASES

UNFINISHED, MISSING, SPLIT = "x", ".", "*"


def describe(
    cells: pd.DataFrame, found: pd.DataFrame, condition: Mapping[str, object] | None = None
) -> str:
    """One condition's counts, its map, the map's legend and where phases begin.

    Args:
        cells: of the condition, as from `analysis.statistics.phases.classify`.
        found: from `analysis.statistics.transitions.estimate_transitions`.
        condition: see `analysis.statistics.phases.split_conditions`.
    """
    counts = [f"{n} {p}" for p, n in cells["phase"].value_counts()[list(PHASES)[::-1]].items()]
    unfinished = (cells["status"] != schema.DONE).sum()
    if unfinished:
        counts.append(f"{unfinished} diverged or failed")
    seeds = cells["seed"].nunique()
    head = (
        f"{labels.title(cells, condition or {})}: {len(cells)} cells, "
        f"{seeds} seed{'s' * (seeds != 1)}: {', '.join(counts)}"
    )
    map_lines = text_map(phases.summarize_grid(cells))
    return "\n".join([head, "", *map_lines, "", *text_transitions(found)])


def text_map(points: pd.DataFrame) -> list[str]:
    """Lines of the map from `phases.summarize_grid`: the largest model size on top."""
    sizes = sorted(points["model_size"].unique(), reverse=True)
    tasks = sorted(points["num_tasks"].unique())
    marks = {}
    for row in points.to_dict("records"):
        mark = UNFINISHED
        if row["seeds"] > row["unfinished"]:
            split = row["agreement"] < 1 or row["unfinished"] > 0
            mark = labels.LETTERS[row["phase"]] + SPLIT * split
        marks[row["model_size"], row["num_tasks"]] = mark
    exponents = [labels.exponent_of_two(n) for n in tasks]
    powers = None not in exponents
    heads = [str(head) for head in (exponents if powers else map(int, tasks))]
    width = max(2, *map(len, heads)) + 1
    margin = max(len(labels.power_of_two(size)) for size in sizes)

    def line(start: str, texts: list[str]) -> str:
        return start + "".join(f"{text:<2}".rjust(width) for text in texts).rstrip()

    legend = "  ".join(f"{labels.LETTERS[phase]} {phase}" for phase in reversed(PHASES))
    return [
        "model size",
        *(
            line(
                f"{labels.power_of_two(size):>{margin}} |",
                [marks.get((size, n), MISSING) for n in tasks],
            )
            for size in sizes
        ),
        " " * margin + " +" + "-" * (width * len(tasks)),
        line(" " * margin + "  ", heads),
        " " * margin + "  " + f" number of tasks{', 2^' * powers}",
        f"{legend}  {SPLIT} seeds disagree  {UNFINISHED} diverged or failed"
        f"  {MISSING} no result yet",
    ]


def text_transitions(found: pd.DataFrame) -> list[str]:
    """A line a model size from `transitions.estimate_transitions`."""
    lines = [f"number of tasks where a phase begins ({CONFIDENCE:.0%} interval)"]
    for size, rows in found.groupby("model_size", sort=True):
        parts = [f"{row['begins']} {_begins(row)}" for row in rows.to_dict("records")]
        lines.append(f"  model size {labels.power_of_two(size)}: {', '.join(parts)}")
    return lines


def _begins(row: dict[Hashable, Any]) -> str:
    if row["censored"] == transitions.BELOW:
        return f"at 2^{row['smallest']:g} or below"
    if row["censored"] == transitions.ABOVE:
        return f"not up to 2^{row['largest']:g}"
    if row["censored"] == transitions.UNCLEAR:
        return "unclear"
    low = f"2^{row['low']:.1f}" if np.isfinite(row["low"]) else f"below 2^{row['smallest']:g}"
    high = f"2^{row['high']:.1f}" if np.isfinite(row["high"]) else f"above 2^{row['largest']:g}"
    return f"2^{row['log2_num_tasks']:.1f} ({low} to {high})"
