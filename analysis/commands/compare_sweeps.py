"""A sweep beside another one, for `metaphase compare A B`: conditions that both have, or the only
one of each, cells paired by model size, number of tasks and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels, load, transition_text
from metaphase.analysis.published.comparisons import Comparison
from metaphase.analysis.statistics import paired, phases, transitions
from metaphase.analysis.statistics.settings import setting_columns
from metaphase.core import schema
from metaphase.core.phase_rules import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = ("first", "second")
_MOST_LINES = 12  # grid points that are printed


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str],
    delta: float,
    confidence: float,
    rule: Rule | None = None,
) -> list[Comparison]:
    """A comparison for each condition in common.

    Args:
        first, second: from `analysis.load.load_cells`.
        names: what the sweeps are called.
        delta, confidence, rule: see `analysis.statistics.phases.classify`.

    Raises:
        ResultsError: no condition, or no cell, in common.
    """
    classified = [phases.classify(cells, delta, confidence, rule=rule) for cells in (first, second)]
    return [
        _beside(groups, condition, names)
        for condition, groups in _pairs([phases.split_conditions(cells) for cells in classified])
    ]


def _pairs(
    sides: list[list[tuple[dict[str, object], pd.DataFrame]]],
) -> list[tuple[dict[str, object], list[pd.DataFrame]]]:
    """Conditions that both sides have, under the settings that tell them apart on either side."""
    first, second = sides
    if len(first) == len(second) == 1:
        return [({}, [first[0][1], second[0][1]])]
    told = list(dict.fromkeys([*first[0][0], *second[0][0]]))
    found = []
    for _, a in first:
        for _, b in second:
            own = {name: _value(a, name) for name in told}
            if all(own[name] == _value(b, name) for name in told):
                known = {name: value for name, value in own.items() if value is not None}
                found.append((known, [a, b]))
    if not found:
        raise load.ResultsError(
            f"the sweeps have no condition in common: they differ in {', '.join(told)}"
        )
    return found


def _value(cells: pd.DataFrame, name: str) -> object:
    """A condition's value of a setting; None where its cells have none."""
    value = cells[name].iloc[0] if name in cells else None
    return None if value is None or pd.isna(value) else value


def _beside(
    groups: list[pd.DataFrame], condition: dict[str, object], names: tuple[str, str]
) -> Comparison:
    points = paired.compare_points(groups[0], groups[1])
    boundaries = [transitions.estimate_transitions(group) for group in groups]
    shifts = paired.compare_transitions(*boundaries)
    end = labels.file_suffix(condition)
    other = f"-{labels.file_word(names[1])}"
    title = ", ".join([f"{names[1]} beside {names[0]}", *labels.condition_words(condition)])
    text = describe(points, shifts, boundaries, names, title, _differing_settings(groups))

    def draw() -> Figure:
        from metaphase.analysis.figures import sides, transition_marks

        marks = {
            side: transition_marks.table(paired.generalizing(found))
            for side, found in zip(SIDES, boundaries, strict=True)
        }
        chance = [float(group["unseen_level"].mean()) for group in groups]
        return sides.figure(points, dict(zip(SIDES, names, strict=True)), marks, chance, title)

    return Comparison(
        text,
        {
            f"compare{other}{end}.csv": ("Grid points in common", points),
            f"compare{other}-transitions{end}.csv": ("Where phases begin and end", shifts),
        },
        f"compare{other}{end}",
        draw,
        "Accuracy of both sweeps and the difference, on seen and on unseen tasks.",
    )


def _differing_settings(groups: list[pd.DataFrame]) -> list[str]:
    """Settings beside the grid's that have other values in the two sweeps: "steps 1000, 2000"."""
    told = []
    columns = [setting_columns(group) for group in groups]
    for name in columns[0]:
        if name in phases.AXES[1:] or name not in columns[1]:
            continue
        values = [sorted({str(value) for value in group[name].dropna()}) for group in groups]
        if values[0] != values[1]:
            told.append(f"{name} {' and '.join(values[0])}; {' and '.join(values[1])}")
    return told


def describe(
    points: pd.DataFrame,
    shifts: pd.DataFrame,
    boundaries: list[pd.DataFrame],
    names: tuple[str, str],
    title: str,
    settings: list[str],
) -> str:
    """The comparison in words: differing settings, the largest differences, transitions."""
    lines = [f"{title}: {len(points)} grid points in common"]
    lines += [f"  setting: {line}" for line in settings]
    lines.append("difference of the last accuracies (95% interval, paired by seed)")
    for split in paired.SPLITS:
        mean = points[f"{split}_difference"].mean()
        clear = int(((points[f"{split}_low"] > 0) | (points[f"{split}_high"] < 0)).sum())
        known = int(points[f"{split}_low"].notna().sum())
        told = (
            f"interval without 0 at {clear} of {known} points with 2 seeds or more"
            if known
            else "no intervals, as no point has 2 seeds in common"
        )
        lines.append(f"  {split}: mean {mean:+.3f}; {told}")
    order = points[f"{schema.UNSEEN}_difference"].abs().sort_values(ascending=False).index
    for row in points.loc[order[:_MOST_LINES]].to_dict("records"):
        where = (
            f"model size {labels.power_of_two(row['model_size'])}, "
            f"{labels.power_of_two(row['num_tasks'])} tasks:"
        )
        half = (row["unseen_high"] - row["unseen_low"]) / 2
        error = f" ± {half:.3f}" if half == half else ""
        lines.append(
            f"  {where:34} unseen {row['unseen_first']:.3f}, {row['unseen_second']:.3f}, "
            f"{row['unseen_difference']:+.3f}{error} ({row['seeds']} seeds)"
        )
    if len(points) > _MOST_LINES:
        lines.append(f"  ({len(points) - _MOST_LINES} more, with smaller differences)")
    lines.append(f"transitions (95% interval): {names[0]}; {names[1]}; shift in octaves")
    return "\n".join([*lines, *_transition_lines(shifts, boundaries)])


def _transition_lines(shifts: pd.DataFrame, boundaries: list[pd.DataFrame]) -> list[str]:
    keys = ["model_size", "begins", "boundary"]
    told = [
        {tuple(row[key] for key in keys): transition_text.place(row)
         for row in found.to_dict("records")}
        for found in boundaries
    ]  # fmt: skip
    lines = []
    for row in shifts.to_dict("records"):
        key = tuple(row[key] for key in keys)
        places = "; ".join(texts.get(key, "none") for texts in told)
        shift = ""
        if row["shift"] == row["shift"]:
            low, high = (
                f"{end:+.1f}" if abs(end) < float("inf") else "open"
                for end in (row["low"], row["high"])
            )
            shift = f"; {row['shift']:+.1f} ({low} to {high})"
        where = f"  model size {labels.power_of_two(row['model_size'])}:"
        lines.append(f"{where} {row['begins']} {row['boundary']}s {places}{shift}")
    return lines
