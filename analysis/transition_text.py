"""Transitions as commands print them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.core import thresholds


def lines(found: pd.DataFrame) -> list[str]:
    """A line a model size from `transitions.estimate_transitions`."""
    told = [f"number of tasks where a phase begins ({CONFIDENCE:.0%} interval)"]
    ends = found[["smallest", "largest"]].to_numpy(dtype=float).ravel()
    powers = all("^" in _exact(end) for end in ends[np.isfinite(ends)])
    for size, rows in found.groupby("model_size", sort=True):
        parts = []
        for phase, boundaries in rows.groupby("begins", sort=False, observed=True):
            places = [place(row, powers=powers) for row in boundaries.to_dict("records")]
            parts.append(f"{phase} {', ends '.join(places)}")
        told.append(f"  model size {labels.power_of_two(size)}: {', '.join(parts)}")
    return told


def place(row: dict[Hashable, Any], axis: str = "num_tasks", powers: bool | None = None) -> str:
    """Where the boundary of a row is, with its interval: "2^7.5 (2^6.1 to 2^8.8)"; where it can't
    be said, "unclear", and where it would be if there were one within the grid.

    Args:
        row: of `transitions.estimate_transitions`, or of `transitions.along_model_size`.
        axis: along which.
        powers: as for `about`; None: where the row's ends are powers of two.
    """
    smallest, largest = _exact(row["smallest"]), _exact(row["largest"])
    if powers is None:
        powers = "^" in smallest and "^" in largest
    if not row["clear"]:
        where = row[f"log2_{axis}"]
        return f"unclear (perhaps {about(where, powers)})" if np.isfinite(where) else "unclear"
    if row["censored"] == thresholds.BELOW:
        return f"at {smallest} or below"
    if row["censored"] == thresholds.ABOVE:
        return f"not up to {largest}"
    low = about(row["low"], powers) if np.isfinite(row["low"]) else f"below {smallest}"
    high = about(row["high"], powers) if np.isfinite(row["high"]) else f"above {largest}"
    return f"{about(row[f'log2_{axis}'], powers)} ({low} to {high})"


def power_law(row: dict[Hashable, Any], powers: bool = True) -> str:
    """A row of `boundary.boundaries`' power laws: "N = 2^8.2 (model size / 32)^-0.85 (-1.2 to
    -0.5)"; where its middle is beyond the grid the exponent alone. `powers`: as for `about`."""
    exponent = f"^{row['exponent']:z.2f} ({row['low']:z.2f} to {row['high']:z.2f})"
    if not np.isfinite(row["log2_num_tasks"]):
        return f"N ~ model size{exponent}"
    middle = labels.short_number(row["middle_size"])
    return f"N = {about(row['log2_num_tasks'], powers)} (model size / {middle}){exponent}"


def about(log2: float, powers: bool) -> str:
    """An estimate: 2^7.5 where the axis counts in powers of two, else 181 (three digits)."""
    if powers:
        return f"2^{log2:.1f}"
    value = 2.0**log2
    digits = 2 - int(np.floor(np.log10(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _exact(log2: float) -> str:
    """A value of the grid: 2^12, or 100,000."""
    return labels.power_of_two(round(2.0**log2))
