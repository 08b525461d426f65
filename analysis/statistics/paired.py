"""Two sweeps side by side: accuracies paired by grid point and seed, transitions with their
intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from metaphase.analysis.load import ResultsError
from metaphase.analysis.statistics.intervals import CONFIDENCE, t_half_width
from metaphase.analysis.statistics.phases import POINT, require_one_condition
from metaphase.core import schema
from metaphase.core.phase_rules import NO_PHASE
from metaphase.core.phases import GENERALIZING, PHASES
from metaphase.core.thresholds import UNCLEAR

SPLITS = (schema.SEEN, schema.UNSEEN)


def compare_points(
    first: pd.DataFrame, second: pd.DataFrame, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Accuracies at the last positions, over the seeds that finished in both sweeps.

    Args:
        first, second: the classified cells of one condition each.
        confidence: of the intervals of differences.

    Returns:
        A row a grid point with seeds in common: model_size, num_tasks, `seeds` (how many); for
        seen and unseen `<split>_first`, `<split>_second` (means), `<split>_difference` (second
        minus first) and the ends `<split>_low`, `<split>_high` of its interval, Student's t of the
        differences of equal seeds (NaN: fewer than 2); and `phases_first`, `phases_second`: how
        many seeds are in each phase, "2 generalizing, 1 no phase by the rule".

    Raises:
        ResultsError: no cell in common, or cells that differ in more than the grid's axes.
    """
    values = {split: f"{split}_{schema.LAST}" for split in SPLITS}
    sides = []
    for cells in (first, second):
        require_one_condition(cells)
        done = cells[cells["status"] == schema.DONE]
        kept = done[[*POINT, "seed", *values.values()]].assign(
            phase=done["phase"].astype(object).fillna(NO_PHASE)
        )
        sides.append(kept)
    pairs = sides[0].merge(sides[1], on=[*POINT, "seed"], suffixes=("_first", "_second"))
    if pairs.empty:
        raise ResultsError(
            "the sweeps have no cell in common: none of equal model size, number of tasks and seed "
            "finished in both"
        )
    for split, name in values.items():
        pairs[f"{split}_difference"] = pairs[f"{name}_second"] - pairs[f"{name}_first"]
    groups = pairs.groupby(POINT)
    table = pd.DataFrame({"seeds": groups.size()})
    for split, name in values.items():
        difference = groups[f"{split}_difference"]
        half = t_half_width(difference.std().to_numpy(), table["seeds"].to_numpy(), confidence)
        table[f"{split}_first"] = groups[f"{name}_first"].mean()
        table[f"{split}_second"] = groups[f"{name}_second"].mean()
        table[f"{split}_difference"] = difference.mean()
        table[f"{split}_low"] = table[f"{split}_difference"] - half
        table[f"{split}_high"] = table[f"{split}_difference"] + half
    for side in ("first", "second"):
        table[f"phases_{side}"] = groups[f"phase_{side}"].agg(_counts)
    return table.reset_index()


def _counts(names: pd.Series) -> str:
    counts = names.value_counts()
    order = (*reversed(PHASES), NO_PHASE)
    return ", ".join(f"{counts[name]} {name}" for name in order if name in counts)


def compare_transitions(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Where phases begin and end in both sweeps, and the shift.

    The shift's interval is made of those of both sides by the square-and-add method for independent
    estimates (Zou & Donner 2008, Statistics in Medicine 27:1693); where the side of an interval
    that it needs is open, so is the shift's.

    Args:
        first, second: from `analysis.statistics.transitions.estimate_transitions`.

    Returns:
        A row for each model size, phase (`begins`) and `boundary` that either has: `<side>`,
        `<side>_low`, `<side>_high` (log2 number of tasks; NaN where a side has no such boundary
        inside its grid, or none that is clear; ends -inf, inf where open), `<side>_censored` (of
        `core.thresholds`; `UNCLEAR` where nothing is claimed, null where a side has no such
        boundary), `shift` (second minus first, octaves), `low`, `high`.
    """
    keys = ["model_size", "begins", "boundary"]
    names = {"log2_num_tasks": "", "low": "_low", "high": "_high", "censored": "_censored"}
    sides = []
    for side, found in (("first", first), ("second", second)):
        clear = found["clear"].astype(bool)
        places = ["log2_num_tasks", "low", "high"]
        said = found[places].where(clear).assign(censored=found["censored"].where(clear, UNCLEAR))
        kept = found[keys].join(said)[[*keys, *names]]
        kept = kept.rename(columns={k: side + end for k, end in names.items()})
        sides.append(kept)
    table = sides[0].merge(sides[1], on=keys, how="outer").sort_values(keys, ignore_index=True)
    shift = table["second"] - table["first"]
    below = np.hypot(table["second"] - table["second_low"], table["first_high"] - table["first"])
    above = np.hypot(table["second_high"] - table["second"], table["first"] - table["first_low"])
    return table.assign(shift=shift, low=shift - below, high=shift + above)


def generalizing(transitions: pd.DataFrame) -> pd.DataFrame:
    """The rows of `estimate_transitions` on generalizing."""
    return transitions[transitions["begins"] == GENERALIZING]
